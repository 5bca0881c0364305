//! Configurations as the text of a command line: `KIND[,key=value]...`, read and written by serde.

use std::slice;

use serde::de::value::{Error as ValueError, MapAccessDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserializer, Serialize};
use serde_json::Value as Json;
use thiserror::Error;

use crate::registry::{Key, Kind, OFF, Value};
use crate::units;

/// What a text says about one device: every key is one of its kind's, and every value one that the key may have.
#[derive(Clone, Debug)]
pub struct KeyValues {
    text: String,
    values: Vec<(&'static Key, Option<String>)>,
}

/// Why a device cannot be what a text says.
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
    /// A quoted value that has no end.
    #[error("Device `{device}`: a double quote is missing at the end of a value")]
    OpenQuote {
        /// The device as it was written.
        device: String,
    },
    /// Something else than a comma after a quoted value.
    #[error("Device `{device}`: only a comma may follow a quoted value, not `{rest}`")]
    BehindQuote {
        /// The device as it was written.
        device: String,
        /// What follows it.
        rest: String,
    },
    /// The values do not make a device.
    #[error("Device `{device}`: {reason}")]
    Wrong {
        /// The device as it was written.
        device: String,
        /// What is wrong.
        reason: String,
    },
}

impl KeyValues {
    /// Reads `KIND[,key=value...]`, of which the part before the first comma names the kind.
    pub fn parse(kind: &'static Kind, text: &str) -> Result<Self, OptionError> {
        let rest = text.split_once(',').map(|(_, rest)| rest);
        Reader { kind, text, rest: rest.unwrap_or_default() }.read(rest.is_none(), false)
    }

    /// Reads the short form `[VALUE][,key=value...]`: the first part is the value of the kind's bare key, unless what stands
    /// before its first `=` is a key.
    pub fn parse_short(kind: &'static Kind, text: &str) -> Result<Self, OptionError> {
        Reader { kind, text, rest: text }.read(text.is_empty() && kind.bare.is_none(), kind.bare.is_some())
    }

    /// The device as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether nothing is said about the device but that it is there.
    pub fn is_plain(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether the text takes the device away.
    pub fn is_off(&self) -> bool {
        self.values.iter().any(|(key, _)| **key == OFF)
    }

    /// Makes a configuration of it.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, OptionError> {
        let fields = Fields { rest: self.values.iter(), value: None };
        T::deserialize(MapAccessDeserializer::new(fields))
            .map_err(|error| OptionError::Wrong { device: self.text.clone(), reason: error.to_string() })
    }
}

/// Writes a configuration as [`KeyValues`] reads it; keys that it has by default are left out.
pub fn write(kind: &Kind, config: &(impl Serialize + ?Sized)) -> String {
    let config = serde_json::to_value(config).unwrap_or_default();
    let part = |key: &'static Key| {
        let value = match &config[key.name] {
            Json::Bool(true) => return Some(key.name.to_owned()),
            Json::String(text) => quote(text),
            Json::Number(number) if key.value == Value::Size => units::size_text(number.as_u64()?),
            Json::Number(number) => number.to_string(),
            _ => return None,
        };
        (!value.is_empty() && value != key.default).then(|| format!("{}={value}", key.name))
    };
    let parts = std::iter::once(kind.name.to_owned()).chain(kind.keys.iter().filter_map(part));
    parts.collect::<Vec<_>>().join(",")
}

/// A value as it must stand in a text: quoted where a comma or a quote would end it.
fn quote(text: &str) -> String {
    if text.contains(',') || text.starts_with('"') {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        text.to_owned()
    }
}

/// What of a text is not read yet.
struct Reader<'a> {
    kind: &'static Kind,
    text: &'a str,
    rest: &'a str,
}

impl Reader<'_> {
    fn read(mut self, is_done: bool, bare: bool) -> Result<KeyValues, OptionError> {
        let mut values = Vec::new();
        let mut is_done = is_done;
        if let (true, Some(key)) = (bare && !self.begins_with_key(), self.kind.bare) {
            let value = self.value()?;
            self.add(&mut values, key, Some(value))?;
            is_done = !self.comma()?;
        }
        while !is_done {
            let end = self.rest.find([',', '=']).unwrap_or(self.rest.len());
            let (name, rest) = self.rest.split_at(end);
            self.rest = rest;
            let value = match rest.strip_prefix('=') {
                Some(rest) => {
                    self.rest = rest;
                    Some(self.value()?)
                }
                None => None,
            };
            self.add(&mut values, name, value)?;
            is_done = !self.comma()?;
        }
        Ok(KeyValues { text: self.text.to_owned(), values })
    }

    fn begins_with_key(&self) -> bool {
        let name = self.rest.split([',', '=']).next().unwrap_or_default();
        self.kind.key(name).is_some()
    }

    /// Takes a value, quoted or not.
    fn value(&mut self) -> Result<String, OptionError> {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let (value, rest) = self.rest.split_at(self.rest.find(',').unwrap_or(self.rest.len()));
            self.rest = rest;
            return Ok(value.to_owned());
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, char)) = chars.next() {
            match char {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return Ok(value);
                }
                '\\' if quoted[at + 1..].starts_with(['"', '\\']) => {
                    value.extend(chars.next().map(|(_, char)| char));
                }
                char => value.push(char),
            }
        }
        Err(OptionError::OpenQuote { device: self.text.to_owned() })
    }

    /// Takes the comma before another part, if there is one.
    fn comma(&mut self) -> Result<bool, OptionError> {
        match self.rest.strip_prefix(',') {
            Some(rest) => {
                self.rest = rest;
                Ok(true)
            }
            None if self.rest.is_empty() => Ok(false),
            None => Err(OptionError::BehindQuote { device: self.text.to_owned(), rest: self.rest.to_owned() }),
        }
    }

    fn add(
        &self,
        values: &mut Vec<(&'static Key, Option<String>)>,
        name: &str,
        value: Option<String>,
    ) -> Result<(), OptionError> {
        let device = || self.text.to_owned();
        let key = self.kind.key(name).ok_or_else(|| OptionError::UnknownKey {
            device: device(),
            key: name.to_owned(),
            keys: self.kind.keys().map(|key| key.name).collect::<Vec<_>>().join(", "),
        })?;
        if values.iter().any(|(other, _)| *other == key) {
            return Err(OptionError::Repeated { device: device(), key: key.name });
        }
        key.value.check(value.as_deref()).map_err(|wanted| OptionError::Unfit {
            device: device(),
            key: key.name,
            wanted,
            value: value.clone().unwrap_or_default(),
        })?;
        values.push((key, value));
        Ok(())
    }
}

/// Keys and values for serde.
struct Fields<'a> {
    rest: slice::Iter<'a, (&'static Key, Option<String>)>,
    value: Option<Field<'a>>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = ValueError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ValueError> {
        let Some((key, value)) = self.rest.by_ref().find(|(key, _)| **key != OFF) else { return Ok(None) };
        self.value = Some(Field { value: key.value, text: value.as_deref().unwrap_or_default() });
        seed.deserialize(key.name.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ValueError> {
        let value = self.value.take().ok_or_else(|| de::Error::custom("a value without a key"))?;
        seed.deserialize(value)
    }
}

/// A value that its key may have.
struct Field<'a> {
    value: Value,
    text: &'a str,
}

impl<'de> Deserializer<'de> for Field<'_> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.value {
            Value::Flag => visitor.visit_bool(true),
            Value::Size => visitor.visit_u64(units::size(self.text).map_err(de::Error::custom)?),
            Value::Number => {
                let number = units::whole_number(self.text);
                visitor.visit_u64(number.ok_or_else(|| de::Error::custom("a number has more than 64 bits"))?)
            }
            Value::OneOf(_) | Value::Text => visitor.visit_str(self.text),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        self.text.into_deserializer().deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

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
        bare: Some("path"),
        example: "",
        standard: false,
        single: false,
    };

    #[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
    #[serde(deny_unknown_fields)]
    struct Disk {
        path: String,
        #[serde(default)]
        ro: bool,
        rate: Option<u64>,
        queues: Option<u16>,
        engine: Option<Engine>,
    }

    #[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
    #[serde(rename_all = "lowercase")]
    enum Engine {
        Uring,
        Threads,
    }

    fn disk(path: &str) -> Disk {
        Disk { path: path.into(), ro: false, rate: None, queues: None, engine: None }
    }

    fn long(text: &str) -> Result<Disk, OptionError> {
        KeyValues::parse(&DISK, text)?.read()
    }

    fn short(text: &str) -> Result<Disk, OptionError> {
        KeyValues::parse_short(&DISK, text)?.read()
    }

    #[test]
    fn keys_and_values_make_a_configuration_and_are_written_back() {
        let all = long("disk,path=a=b,ro,rate=2M,queues=4,engine=threads").unwrap();
        let expected =
            Disk { ro: true, rate: Some(2 << 20), queues: Some(4), engine: Some(Engine::Threads), ..disk("a=b") };
        assert_eq!(all, expected);
        assert_eq!(write(&DISK, &all), "disk,path=a=b,ro,rate=2M,queues=4,engine=threads");
        for path in ["a", "a,b", "\"", "a\"b", "a\\,b", "\\", "\"a\\\",", "ro", "=", "a b"] {
            assert_eq!(long(&write(&DISK, &disk(path))).unwrap(), disk(path));
        }
    }

    #[test]
    fn the_first_part_of_a_short_form_is_the_bare_value_unless_it_names_a_key() {
        assert_eq!(short("a.img"), Ok(disk("a.img")));
        assert_eq!(short("a=b.img,ro"), Ok(Disk { ro: true, ..disk("a=b.img") }));
        assert_eq!(short("./path=x"), Ok(disk("./path=x")));
        assert_eq!(short("path=x"), Ok(disk("x")));
        assert_eq!(short("ro,path=x"), Ok(Disk { ro: true, ..disk("x") }));
        assert_eq!(short("\"a,b\",ro"), Ok(Disk { ro: true, ..disk("a,b") }));
        assert_eq!(short("").unwrap_err().to_string(), "Device ``: `path` needs a value, not ``");
    }

    #[test]
    fn a_quoted_value_ends_at_the_next_quote_that_is_not_escaped() {
        assert_eq!(long(r#"disk,path="a,b",ro"#), Ok(Disk { ro: true, ..disk("a,b") }));
        assert_eq!(long(r#"disk,path="a\"b\\c\d""#), Ok(disk(r#"a"b\c\d"#)));
        assert_eq!(long(r#"disk,path=a"b"#), Ok(disk(r#"a"b"#)));
        let error = |text: &str| long(text).unwrap_err().to_string();
        let open = "Device `disk,path=\"a,ro`: a double quote is missing at the end of a value";
        assert_eq!(error("disk,path=\"a,ro"), open);
        let behind = "Device `disk,path=\"a\"b`: only a comma may follow a quoted value, not `b`";
        assert_eq!(error("disk,path=\"a\"b"), behind);
        assert_eq!(error("disk,path=\"\""), "Device `disk,path=\"\"`: `path` needs a value, not ``");
    }

    #[test]
    fn an_error_says_what_the_key_takes() {
        let error = |device: &str| KeyValues::parse(&DISK, device).unwrap_err().to_string();
        assert_eq!(error("disk,x=1"), "Device `disk,x=1` has no key `x`; it has path, ro, rate, queues, engine");
        assert_eq!(error("disk,"), "Device `disk,` has no key ``; it has path, ro, rate, queues, engine");
        assert_eq!(error("disk,ro,ro"), "Device `disk,ro,ro` has the key `ro` twice");
        assert_eq!(error("disk,ro=1"), "Device `disk,ro=1`: `ro` stands alone, not `1`");
        assert_eq!(error("disk,path"), "Device `disk,path`: `path` needs a value, not ``");
        assert_eq!(error("disk,engine=x"), "Device `disk,engine=x`: `engine` is uring or threads, not `x`");
        for value in ["0", "-1", "x", ""] {
            assert!(error(&format!("disk,rate={value}")).ends_with(&format!("such as 512K, not `{value}`")));
            assert!(error(&format!("disk,queues={value}")).ends_with(&format!("from 1 up, not `{value}`")));
        }
        assert!(error("disk,queues=1K").ends_with("from 1 up, not `1K`"));
    }
}
