//! The virtio devices that a guest shall have, as data: every kind in one list.

use std::cell::OnceCell;
use std::error::Error;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::VirtioDevice;
use super::backing::RamBacking;
use super::console::handle::ConsoleHandle;
use super::device_config::{Checked, DeviceConfig, GuestLimits, OpenContext, Opened, ShmRegion, ShmRequest};
use super::{balloon, blk, console, net, rng, vsock};
use crate::key_values::{KeyValues, OptionError};
use crate::registry::Kind;

/// Why a guest cannot have such devices.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// There is no such kind.
    #[error("There is no device `{name}`; there is {}", kind_names())]
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

            /// The memory that it shares with the guest besides RAM.
            pub fn shm(&self) -> Vec<ShmRequest> {
                match self { $(Self::$name(config) => config.shm(),)* }
            }

            pub(super) fn make(&self, context: &OpenContext<'_>) -> Opened {
                match self { $(Self::$name(config) => config.open(context),)* }
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
    pub fn open(&self, context: &OpenContext<'_>) -> Result<Box<dyn VirtioDevice>, DeviceError> {
        self.make(context).map_err(|source| DeviceError::Device { device: self.text(), source })
    }
}

/// All kinds, in a message.
fn kind_names() -> String {
    KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
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

/// The devices of a guest, made.
pub struct Devices {
    /// In the order of the configuration.
    pub list: Vec<Box<dyn VirtioDevice>>,
    /// The way to the console's ports, if there is a console device: they wait for their other ends.
    pub console: Option<ConsoleHandle>,
}

/// Makes all devices, in the order in which that must be. The regions of shared memory that each asked for come in the order of the
/// configuration.
pub fn open(devices: &[VirtioConfig], shm: &[Vec<ShmRegion>], ram: RamBacking) -> Result<Devices, DeviceError> {
    let console = OnceCell::new();
    let mut order: Vec<_> = devices.iter().enumerate().collect();
    order.sort_by_key(|(_, device)| device.opens_last());
    let open = |(index, device): (usize, &VirtioConfig)| {
        let shm = shm.get(index).map_or(&[][..], Vec::as_slice);
        Ok((index, device.open(&OpenContext { shm, ram, console: Some(&console) })?))
    };
    let mut opened = order.into_iter().map(open).collect::<Result<Vec<_>, DeviceError>>()?;
    opened.sort_by_key(|(index, _)| *index);
    let list = opened.into_iter().map(|(_, device)| device).collect();
    Ok(Devices { list, console: console.into_inner() })
}

/// Makes a device as a run does, for tests of it: what is wrong with it by itself is found first.
#[cfg(test)]
pub(crate) fn make(config: &VirtioConfig) -> Opened {
    make_with(config, &OpenContext::default())
}

/// The same in a context.
#[cfg(test)]
pub(crate) fn make_with(config: &VirtioConfig, context: &OpenContext<'_>) -> Opened {
    config.check(GuestLimits { mem: u64::MAX })?;
    config.make(context)
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
    use crate::virtio::interrupt::Interrupt;
    use crate::virtio::{VirtioDevice, Worker};

    /// A device that shares memory with its guest, and tells in its configuration space where that is.
    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    struct SharingConfig;

    struct Sharing(Vec<u8>);

    impl DeviceConfig for SharingConfig {
        const KIND: &'static Kind = KINDS[0];

        fn shm(&self) -> Vec<ShmRequest> {
            ["cache", "log"].map(|name| ShmRequest { name: name.to_owned(), size: 1 << 30 }).to_vec()
        }

        fn open(&self, context: &OpenContext<'_>) -> Opened {
            let starts = context.shm.iter().flat_map(|region| region.range.start.to_le_bytes());
            Ok(Box::new(Sharing(starts.collect())))
        }
    }

    impl VirtioDevice for Sharing {
        fn device_type(&self) -> u32 {
            63
        }

        fn queue_sizes(&self) -> Vec<u16> {
            Vec::new()
        }

        fn read_config(&self, offset: u64, data: &mut [u8]) {
            crate::virtio::read_bytes(&self.0, offset, data);
        }

        fn workers(&mut self, _interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
            Vec::new()
        }
    }

    #[test]
    fn a_device_gets_the_addresses_of_the_memory_that_it_asks_for() {
        let config = SharingConfig;
        let region = |request: ShmRequest, start| ShmRegion { name: request.name, range: start..start + request.size };
        let shm: Vec<_> = config.shm().into_iter().zip([4 << 30, 8 << 30]).map(|(ask, at)| region(ask, at)).collect();
        let device = config.open(&OpenContext { shm: &shm, ..OpenContext::default() }).unwrap();
        let mut starts = [0; 16];
        device.read_config(0, &mut starts);
        assert_eq!(
            starts.as_chunks().0.iter().map(|start| u64::from_le_bytes(*start)).collect::<Vec<_>>(),
            [4 << 30, 8 << 30]
        );
    }

    #[test]
    fn no_device_that_there_is_asks_for_memory_besides_ram() {
        for kind in KINDS {
            let config = VirtioConfig::parse(&format!("{}{}", kind.name, required(kind, ""))).unwrap();
            assert_eq!(config.shm(), []);
        }
    }

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
