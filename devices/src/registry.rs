//! What can be said about a kind of device: its keys, their values, and help for both. A kind's configuration is a struct of its
//! own; [`crate::key_values`] reads one from a command line and writes it back, and its keys are those listed here.

use crate::units;

/// A kind of device that `--device KIND[,key=value...]` configures.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// What can be said about one.
    pub keys: &'static [Key],
    /// The key whose value may stand first without its name, in the short form of the kind's own option.
    pub bare: Option<&'static str>,
    /// How to ask for one, as `carpel` takes it.
    pub example: &'static str,
    /// Every guest has one unless the command line or a configuration file says otherwise.
    pub standard: bool,
    /// A guest has one at most.
    pub single: bool,
}

/// A key of a kind.
#[derive(Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing: the key alone says it.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Bytes, from 1 up, with units as [`units::size`] has them.
    Size,
    /// A whole number from 1 up in decimal, of things that have no unit.
    Number,
    /// Any text but an empty one.
    Text,
}

/// The key that takes a standard device away.
pub const OFF: Key = Key { name: "off", about: "the guest has none", value: Value::Flag, default: "it has one" };

impl Kind {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().chain(self.standard.then_some(&OFF)).find(|key| key.name == name)
    }

    /// All keys that a text may have.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().chain(self.standard.then_some(&OFF))
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

    /// Judges what stands behind the key. The error is what such a key takes.
    pub fn check(self, value: Option<&str>) -> Result<(), String> {
        match (self, value) {
            (Self::Flag, None) => Ok(()),
            (Self::Flag, Some(_)) => Err("stands alone".into()),
            (Self::OneOf(words), Some(value)) if words.contains(&value) => Ok(()),
            (Self::OneOf(words), _) => Err(format!("is {}", words.join(" or "))),
            (Self::Size, Some(value)) if units::size(value).is_ok_and(|size| size > 0) => Ok(()),
            (Self::Size, _) => Err("takes bytes from 1 up, such as 512K".into()),
            (Self::Number, Some(value)) if units::whole_number(value).is_some_and(|number| number > 0) => Ok(()),
            (Self::Number, _) => Err("takes a whole number from 1 up".into()),
            (Self::Text, Some(value)) if !value.is_empty() => Ok(()),
            (Self::Text, _) => Err("needs a value".into()),
        }
    }
}
