//! What a virtio device shall be, as data: each kind's struct says its keys, defaults and rules, and makes the device.

use std::error::Error;
use std::fmt::Debug;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::VirtioDevice;
use super::{balloon, blk, console, net, rng, vsock};
use crate::key_values::{self, KeyValues, OptionError};
use crate::registry::Kind;

/// Nothing, or why there can be no such device.
pub type Checked = Result<(), Box<dyn Error + Send + Sync>>;

/// A new device, or why there is none.
pub type Opened = Result<Box<dyn VirtioDevice>, Box<dyn Error + Send + Sync>>;

/// The guest that a device is for, as far as rules of devices look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLimits {
    /// Its memory in bytes.
    pub mem: u64,
}

/// The configuration of a kind of device.
pub trait DeviceConfig: Clone + Debug + PartialEq + DeserializeOwned + Serialize + Sized {
    /// Name, keys and help.
    const KIND: &'static Kind;

    /// Whether such a device is opened after all others. Those that make files empty are: nothing is lost for the want of
    /// another device, and by then images are locked.
    const OPENS_LAST: bool = false;

    /// Reads what a text says.
    fn from_text(values: &KeyValues) -> Result<Self, OptionError> {
        values.read()
    }

    /// Texts that say all of it.
    fn texts(&self) -> Vec<String> {
        vec![key_values::write(Self::KIND, self)]
    }

    /// Takes what another text says about the same device, where texts add up; otherwise returns it.
    fn join(&mut self, other: Self) -> Result<(), Self> {
        Err(other)
    }

    /// The files of the host that it uses.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Whether a guest can have such a device, as far as that can be told without the host.
    fn check(&self, _guest: GuestLimits) -> Checked {
        Ok(())
    }

    /// Whether a guest can have this device beside another one of its kind; if not, what both do wrong.
    fn check_beside(&self, _other: &Self) -> Result<(), String> {
        Ok(())
    }

    /// Makes the device, with all that it needs of the host.
    fn open(&self) -> Opened;
}

/// Why a guest cannot have such devices.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// There is no such kind.
    #[error("There is no device `{name}`; there is {}", KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", "))]
    UnknownKind {
        /// The name.
        name: String,
    },
    /// A text that its kind does not take.
    #[error(transparent)]
    Text(#[from] OptionError),
    /// A second device of a kind that comes once.
    #[error("A guest has one {kind}, not both `{first}` and `{second}`")]
    Second {
        /// The kind's name.
        kind: &'static str,
        /// The device that is there.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two devices that cannot be in one guest.
    #[error("`{first}` and `{second}` {reason}")]
    Beside {
        /// The device that is there.
        first: String,
        /// The other one.
        second: String,
        /// What both do wrong.
        reason: String,
    },
    /// A device that cannot be had.
    #[error("Cannot make the device `{device}`")]
    Device {
        /// The device.
        device: String,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// One line for each kind, from which all that knows them is made.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident($config:ty),)*) => {
        /// A virtio device that a guest shall have.
        #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum VirtioConfig {
            $($(#[$doc])* $name($config),)*
        }

        /// Every kind of virtio device.
        pub static KINDS: &[&Kind] = &[$(<$config>::KIND,)*];

        impl VirtioConfig {
            /// Reads what a text says about a device of this kind.
            pub fn from_text(kind: &Kind, values: &KeyValues) -> Result<Self, DeviceError> {
                match kind.name {
                    $(name if name == <$config>::KIND.name => Ok(Self::$name(<$config>::from_text(values)?)),)*
                    name => Err(DeviceError::UnknownKind { name: name.to_owned() }),
                }
            }

            /// Which kind it is.
            pub fn kind(&self) -> &'static Kind {
                match self { $(Self::$name(_) => <$config>::KIND,)* }
            }

            /// Texts for `--device` that say all of it.
            pub fn texts(&self) -> Vec<String> {
                match self { $(Self::$name(config) => config.texts(),)* }
            }

            /// The files of the host that it uses.
            pub fn files(&self) -> Vec<PathBuf> {
                match self { $(Self::$name(config) => config.files(),)* }
            }

            /// Takes what another text says about the same device, where texts of its kind add up; otherwise returns it.
            pub fn join(&mut self, other: Self) -> Result<(), Self> {
                match (self, other) {
                    $((Self::$name(config), Self::$name(other)) => config.join(other).map_err(Self::$name),)*
                    (_, other) => Err(other),
                }
            }

            /// Whether such a device is opened after all others.
            pub fn opens_last(&self) -> bool {
                match self { $(Self::$name(_) => <$config>::OPENS_LAST,)* }
            }

            pub(super) fn check(&self, guest: GuestLimits) -> Checked {
                match self { $(Self::$name(config) => DeviceConfig::check(config, guest),)* }
            }

            fn check_beside(&self, other: &Self) -> Result<(), String> {
                match (self, other) {
                    $((Self::$name(config), Self::$name(other)) => config.check_beside(other),)*
                    _ => Ok(()),
                }
            }

            pub(super) fn make(&self) -> Opened {
                match self { $(Self::$name(config) => config.open(),)* }
            }
        }
    };
}

kinds! {
    /// A memory balloon.
    Balloon(balloon::BalloonConfig),
    /// A disk.
    Blk(blk::BlkConfig),
    /// The console and its ports.
    Console(console::ConsoleConfig),
    /// A network interface.
    Net(net::NetConfig),
    /// A source of random numbers.
    Rng(rng::RngConfig),
    /// Sockets between guest and host.
    Vsock(vsock::VsockConfig),
}

impl VirtioConfig {
    /// Reads `KIND[,key=value...]`.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        let name = text.split(',').next().unwrap_or_default();
        let kind = kind(name).ok_or_else(|| DeviceError::UnknownKind { name: name.to_owned() })?;
        Self::from_text(kind, &KeyValues::parse(kind, text)?)
    }

    /// The device in a few words: what says most of it in a text.
    pub fn text(&self) -> String {
        self.texts().join(" and ")
    }

    /// Makes the device, with all that it needs of the host.
    pub fn open(&self) -> Result<Box<dyn VirtioDevice>, DeviceError> {
        self.make().map_err(|source| DeviceError::Device { device: self.text(), source })
    }
}

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.name == name)
}

/// Finds devices that no host can give a guest, each alone and one beside another.
pub fn check(devices: &[VirtioConfig], guest: GuestLimits) -> Result<(), DeviceError> {
    for (index, device) in devices.iter().enumerate() {
        let error = |source| DeviceError::Device { device: device.text(), source };
        for other in devices[..index].iter().filter(|other| other.kind() == device.kind()) {
            if device.kind().single {
                let (first, second) = (other.text(), device.text());
                return Err(DeviceError::Second { kind: device.kind().name, first, second });
            }
            let (first, second) = (other.text(), device.text());
            device.check_beside(other).map_err(|reason| DeviceError::Beside { first, second, reason })?;
        }
        device.check(guest).map_err(error)?;
    }
    Ok(())
}

/// Makes all devices, in the order in which that must be; they come in the order of the configuration.
pub fn open(devices: &[VirtioConfig]) -> Result<Vec<Box<dyn VirtioDevice>>, DeviceError> {
    let mut order: Vec<_> = devices.iter().enumerate().collect();
    order.sort_by_key(|(_, device)| device.opens_last());
    let open = |(index, device): (usize, &VirtioConfig)| Ok((index, device.open()?));
    let mut opened = order.into_iter().map(open).collect::<Result<Vec<_>, DeviceError>>()?;
    opened.sort_by_key(|(index, _)| *index);
    Ok(opened.into_iter().map(|(_, device)| device).collect())
}

/// Makes a device as a run does, for tests of it: what is wrong with it by itself is found first.
#[cfg(test)]
pub(crate) fn make(config: &VirtioConfig) -> Opened {
    config.check(GuestLimits { mem: u64::MAX })?;
    config.make()
}

/// The same from a text.
#[cfg(test)]
pub(crate) fn make_from(text: &str) -> Opened {
    make(&VirtioConfig::parse(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{OFF, Value};

    #[test]
    fn names_are_unique_and_examples_are_taken() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[..index].iter().all(|other| other.name != kind.name), "{}", kind.name);
            assert_eq!(kind.key(OFF.name).is_some(), kind.standard, "{}", kind.name);
            let device = kind.example.strip_prefix("--device ").unwrap_or_else(|| panic!("{}", kind.example));
            assert_eq!(VirtioConfig::parse(device).unwrap().kind(), *kind);
        }
    }

    /// Values that each key can have, where the kind of value does not tell.
    fn value(kind: &Kind, key: &str) -> &'static str {
        match (kind.name, key) {
            ("net", "mac") => "02:00:00:00:00:01",
            ("net", "mtu") => "1400",
            ("vsock", "cid") => "77",
            ("blk", "block-size") => "4K",
            _ => "2",
        }
    }

    /// What must be there with any other key.
    fn required(kind: &Kind, key: &str) -> &'static str {
        match (kind.name, key) {
            ("blk", "path") | ("net", "tap") | ("vsock", "uds") => "",
            ("blk", _) => ",path=disk.img",
            ("net", _) => ",tap=tap0",
            ("vsock", _) => ",uds=vm.sock",
            ("console", "name") => ",pty",
            ("console", _) => ",name=log",
            _ => "",
        }
    }

    #[test]
    fn every_key_goes_into_json_and_back_and_into_text_and_back() {
        for kind in KINDS {
            for key in kind.keys {
                let values: &[&str] = match key.value {
                    Value::OneOf(words) => words,
                    _ => &[value(kind, key.name)],
                };
                for value in values {
                    let value = if key.value == Value::Flag { String::new() } else { format!("={value}") };
                    let text = format!("{},{}{value}{}", kind.name, key.name, required(kind, key.name));
                    let config = VirtioConfig::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
                    let json = serde_json::to_string(&config).unwrap();
                    assert_eq!(serde_json::from_str::<VirtioConfig>(&json).unwrap(), config, "{json}");
                    let texts = config.texts();
                    assert_eq!(VirtioConfig::parse(&texts[0]).unwrap(), config, "{texts:?}");
                    assert!(json.contains(&format!("\"{}\":", key.name)), "{json} has no {}", key.name);
                }
            }
        }
    }

    #[test]
    fn json_knows_no_key_that_text_does_not_know() {
        for kind in KINDS.iter().filter(|kind| kind.name != "console") {
            let text = format!("{}{}", kind.name, required(kind, ""));
            let json = serde_json::to_value(VirtioConfig::parse(&text).unwrap()).unwrap();
            let keys: Vec<_> = json[kind.name].as_object().unwrap().keys().map(String::as_str).collect();
            assert!(keys.iter().all(|key| kind.keys.iter().any(|known| known.name == *key)), "{keys:?}");
            assert_eq!(keys.len(), kind.keys.len(), "every key is written: {keys:?}");
            let more = json.to_string().replacen(":{", ":{\"wrong\":1,", 1).replace(",}", "}");
            let error = serde_json::from_str::<VirtioConfig>(&more).unwrap_err().to_string();
            assert!(error.contains("unknown field `wrong`"), "{more}: {error}");
        }
    }
}
