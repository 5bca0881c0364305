//! What can be said about a kind of device on a command line: its keys, their values, and help for both.

use thiserror::Error;

use crate::units;

/// A kind of device that `--device KIND[,key=value...]` configures.
#[derive(Debug)]
pub struct Kind {
    /// The name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// What can be said about one.
    pub keys: &'static [Key],
    /// How to ask for one, as `carpel` takes it.
    pub example: &'static str,
    /// Every guest has one unless its key [`OFF`] says otherwise.
    pub standard: bool,
}

/// A key of a kind.
#[derive(Debug)]
pub struct Key {
    /// The name.
    pub name: &'static str,
    /// What it means, in a line.
    pub about: &'static str,
    /// What it may be.
    pub value: Value,
    /// What holds without it, in words or as a value.
    pub default: &'static str,
}

/// What a key's value may be.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// Nothing: the key alone says it.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A whole number from 1 up in decimal, with `K`, `M`, `G` or `T` for powers of 1024.
    Size,
    /// A whole number from 1 up in decimal.
    Number,
    /// Any text but an empty one; a comma ends it.
    Text,
}

/// The key that takes a standard device away.
pub const OFF: Key = Key { name: "off", about: "the guest has none", value: Value::Flag, default: "it has one" };

/// What was said about one device; every key is one of its kind's, and every value one that the key may have.
#[derive(Clone, Debug)]
pub struct Options {
    text: String,
    values: Vec<(&'static str, String)>,
    /// More that was said about the same device.
    more: Vec<Options>,
}

/// Why a device cannot be what was said.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// The kind has no such key.
    #[error("Device `{device}` has no key `{key}`; it has {keys}")]
    UnknownKey {
        /// The device as it was written.
        device: String,
        /// The key.
        key: String,
        /// The kind's keys.
        keys: String,
    },
    /// The same key more than once.
    #[error("Device `{device}` has the key `{key}` twice")]
    Repeated {
        /// The device as it was written.
        device: String,
        /// The key.
        key: &'static str,
    },
    /// A value that the key cannot have.
    #[error("Device `{device}`: `{key}` {wanted}, not `{value}`")]
    Unfit {
        /// The device as it was written.
        device: String,
        /// The key.
        key: &'static str,
        /// What it takes.
        wanted: String,
        /// What it got.
        value: String,
    },
}

impl Kind {
    /// Reads `KIND[,key=value...]`, of which the part before the first comma names this kind.
    pub fn parse(&self, device: &str) -> Result<Options, OptionError> {
        let mut options = Options { text: device.to_owned(), values: Vec::new(), more: Vec::new() };
        for part in device.split(',').skip(1) {
            let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value)));
            let key = self.keys.iter().find(|key| key.name == name).ok_or_else(|| OptionError::UnknownKey {
                device: device.to_owned(),
                key: name.to_owned(),
                keys: self.keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", "),
            })?;
            if options.has(key.name) {
                return Err(OptionError::Repeated { device: device.to_owned(), key: key.name });
            }
            key.value.check(value).map_err(|wanted| OptionError::Unfit {
                device: device.to_owned(),
                key: key.name,
                wanted,
                value: value.unwrap_or_default().to_owned(),
            })?;
            options.values.push((key.name, value.unwrap_or_default().to_owned()));
        }
        Ok(options)
    }
}

impl Value {
    /// How it stands behind its key in help.
    pub fn hint(self) -> String {
        match self {
            Self::Flag => String::new(),
            Self::OneOf(words) => format!("={}", words.join("|")),
            Self::Size => "=SIZE".into(),
            Self::Number => "=N".into(),
            Self::Text => "=TEXT".into(),
        }
    }

    /// The error is what such a key takes.
    fn check(self, value: Option<&str>) -> Result<(), String> {
        match (self, value) {
            (Self::Flag, None) => Ok(()),
            (Self::Flag, Some(_)) => Err("stands alone".into()),
            (Self::OneOf(words), Some(value)) if words.contains(&value) => Ok(()),
            (Self::OneOf(words), _) => Err(format!("is {}", words.join(" or "))),
            (Self::Size, Some(value)) if units::size(value).is_ok_and(|size| size > 0) => Ok(()),
            (Self::Size, _) => Err("takes a whole number from 1 up, such as 512K".into()),
            (Self::Number, Some(value)) if units::whole_number(value).is_some_and(|number| number > 0) => Ok(()),
            (Self::Number, _) => Err("takes a whole number from 1 up".into()),
            (Self::Text, Some(value)) if !value.is_empty() => Ok(()),
            (Self::Text, _) => Err("needs a value".into()),
        }
    }
}

impl Options {
    /// The device as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes what another text says about the same device.
    pub fn join(&mut self, other: Self) {
        self.more.push(other);
    }

    /// All texts about the device, one by one.
    pub fn lines(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.more)
    }

    /// Whether this text names the device and says nothing about it.
    pub fn is_plain(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether the key was given.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The key's value; empty for a flag.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }

    /// The value of a [`Value::Size`] or [`Value::Number`].
    pub fn size(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(|value| units::size(value).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static DISK: Kind = Kind {
        name: "disk",
        about: "A disk",
        keys: &[
            Key { name: "path", about: "its file", value: Value::Text, default: "" },
            Key { name: "ro", about: "read-only", value: Value::Flag, default: "writable" },
            Key { name: "rate", about: "bytes per second", value: Value::Size, default: "no limit" },
            Key { name: "queues", about: "how many", value: Value::Number, default: "1" },
            Key { name: "engine", about: "how", value: Value::OneOf(&["uring", "threads"]), default: "uring" },
        ],
        example: "",
        standard: false,
    };

    #[test]
    fn keys_and_values_are_those_of_the_kind() {
        let options = DISK.parse("disk,path=a=b,ro,rate=2M,engine=threads").unwrap();
        assert_eq!(options.get("path"), Some("a=b"));
        assert!(options.has("ro"));
        assert_eq!(options.size("rate"), Some(2 << 20));
        assert_eq!(options.get("engine"), Some("threads"));
        assert!(!DISK.parse("disk").unwrap().has("ro"));
    }

    #[test]
    fn an_error_says_what_the_key_takes() {
        let error = |device: &str| DISK.parse(device).unwrap_err().to_string();
        assert_eq!(error("disk,x=1"), "Device `disk,x=1` has no key `x`; it has path, ro, rate, queues, engine");
        assert_eq!(error("disk,"), "Device `disk,` has no key ``; it has path, ro, rate, queues, engine");
        assert_eq!(error("disk,ro,ro"), "Device `disk,ro,ro` has the key `ro` twice");
        assert_eq!(error("disk,ro=1"), "Device `disk,ro=1`: `ro` stands alone, not `1`");
        assert_eq!(error("disk,path"), "Device `disk,path`: `path` needs a value, not ``");
        assert_eq!(error("disk,engine=x"), "Device `disk,engine=x`: `engine` is uring or threads, not `x`");
        for value in ["0", "-1", "x", ""] {
            let wanted = "takes a whole number from 1 up";
            assert!(error(&format!("disk,rate={value}")).ends_with(&format!("{wanted}, such as 512K, not `{value}`")));
            assert!(error(&format!("disk,queues={value}")).ends_with(&format!("{wanted}, not `{value}`")));
        }
        assert!(error("disk,queues=1K").ends_with("from 1 up, not `1K`"));
    }
}
