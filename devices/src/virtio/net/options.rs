//! What a network device shall be.

use std::num::NonZeroU64;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::registry::{Key, Kind, Value};

/// The least MTU that a device may have (section 5.1.4.1), and the most that a tap can: its frame is 65535 bytes long
/// with the Ethernet header (drivers/net/tun.c).
const MTU: RangeInclusive<u64> = 68..=65521;
/// Each queue pair is a thread, and a guest uses no more than it has vCPUs.
const QUEUES: RangeInclusive<u64> = 1..=16;

/// Name, keys and help.
pub static KIND: Kind = Kind {
    name: "net",
    about: "A network interface whose other end is a tap of the host (virtio-net)",
    keys: &[
        Key { name: "tap", about: "the tap, created if it is not there", value: Value::Text, default: "must be given" },
        Key { name: "mac", about: "the guest's MAC address", value: Value::Text, default: "made of the tap's name" },
        Key {
            name: "mtu",
            about: "bytes of the longest packet, also for the tap",
            value: Value::Number,
            default: "the tap's",
        },
        Key { name: "queues", about: "queue pairs, with a thread each", value: Value::Number, default: "1" },
        Key { name: "rx-rate", about: "bytes per second that the guest gets", value: Value::Size, default: "no limit" },
        Key {
            name: "tx-rate",
            about: "bytes per second that the guest sends",
            value: Value::Size,
            default: "no limit",
        },
    ],
    bare: None,
    example: "--device net,tap=tap0,mac=02:00:00:00:00:01,queues=2",
    standard: false,
    single: false,
};

/// A network interface.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetConfig {
    /// Name of the tap.
    #[serde(default)]
    pub tap: String,
    /// The guest's MAC address; one made of the tap's name, if none is given.
    pub mac: Option<Mac>,
    /// Bytes of the longest packet; the tap's if none.
    pub mtu: Option<u64>,
    /// Queue pairs.
    #[serde(default = "one")]
    pub queues: u64,
    /// Bytes per second to the guest.
    pub rx_rate: Option<NonZeroU64>,
    /// Bytes per second from the guest.
    pub tx_rate: Option<NonZeroU64>,
}

/// The MAC address of one interface.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

const fn one() -> u64 {
    1
}

/// What cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NetConfigError {
    /// There is nothing to connect the guest to.
    #[error("`tap=NAME` is missing: the host's end of the network")]
    NoTap,
    /// Not a MAC address of one interface.
    #[error("`mac={0}` is no address of one interface, such as 02:00:00:00:00:01 (the first byte is even)")]
    Mac(String),
    /// A number that is too small or too large.
    #[error("`{key}={value}` is not between {least} and {most}")]
    Range {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
}

impl NetConfig {
    /// Whether such an interface can be, as far as that can be told without the host.
    pub fn validate(&self) -> Result<(), NetConfigError> {
        if self.tap.is_empty() {
            return Err(NetConfigError::NoTap);
        }
        within("mtu", self.mtu, MTU)?;
        within("queues", Some(self.queues), QUEUES)
    }

    /// The guest's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac.map_or_else(|| mac_of(&self.tap), |mac| mac.0)
    }
}

fn within(key: &'static str, value: Option<u64>, range: RangeInclusive<u64>) -> Result<(), NetConfigError> {
    match value {
        Some(value) if !range.contains(&value) => {
            Err(NetConfigError::Range { key, value, least: *range.start(), most: *range.end() })
        }
        _ => Ok(()),
    }
}

impl From<Mac> for String {
    fn from(Mac(bytes): Mac) -> Self {
        bytes.map(|byte| format!("{byte:02x}")).join(":")
    }
}

impl TryFrom<String> for Mac {
    type Error = NetConfigError;

    fn try_from(text: String) -> Result<Self, NetConfigError> {
        parse_mac(&text).map(Self).ok_or(NetConfigError::Mac(text))
    }
}

/// Six bytes in hexadecimal; neither a group's address nor zero.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| digits(part));
    let bytes = text.split(':').map(byte).collect::<Option<Vec<_>>>()?;
    let mac: [u8; 6] = bytes.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// The address of a name: the same each time, so that the guest finds its interface again. Locally administered, one
/// interface's.
fn mac_of(name: &str) -> [u8; 6] {
    // FNV-1a (Fowler, Noll, Vo), 64 bits.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    let mut mac = [0; 6];
    mac.copy_from_slice(&hash.to_be_bytes()[..6]);
    mac[0] = mac[0] & 0xFC | 2;
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_values::KeyValues;

    fn read(device: &str) -> Result<NetConfig, String> {
        let values = KeyValues::parse(&KIND, device).unwrap();
        let config: NetConfig = values.read().map_err(|error| error.to_string())?;
        config.validate().map(|()| config).map_err(|error| error.to_string())
    }

    #[test]
    fn all_but_the_tap_has_a_default() {
        let options = read("net,tap=tap0").unwrap();
        assert_eq!((options.mtu, options.queues, options.rx_rate, options.tx_rate), (None, 1, None, None));
        assert_eq!(read("net,mtu=1500"), Err(NetConfigError::NoTap.to_string()));
        let all = read("net,tap=tap0,mac=52:54:00:AB:cd:ef,mtu=9000,queues=4,rx-rate=1M,tx-rate=2M").unwrap();
        assert_eq!(all.mac(), [0x52, 0x54, 0, 0xAB, 0xCD, 0xEF]);
        let rates = [all.rx_rate, all.tx_rate].map(|rate| rate.map(NonZeroU64::get));
        assert_eq!((all.mtu, all.queues, rates), (Some(9000), 4, [Some(1 << 20), Some(2 << 20)]));
    }

    #[test]
    fn the_address_of_a_name_stays_and_differs_from_others() {
        let mac = |name: &str| read(&format!("net,tap={name}")).unwrap().mac();
        assert_eq!(mac("tap0"), mac("tap0"));
        let mut all: Vec<_> = (0..500).map(|number| mac(&format!("tap{number}"))).collect();
        assert!(all.iter().all(|mac| mac[0] & 3 == 2));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 500);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for mac in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "03:00:00:00:00:01", "00:00:00:00:00:00"] {
            assert_eq!(parse_mac(mac), None, "{mac}");
        }
        for mac in ["2:0:0:0:0:1", "+2:00:00:00:00:01", "02-00-00-00-00-01", "g2:00:00:00:00:01"] {
            let error = read(&format!("net,tap=t,mac={mac}")).unwrap_err();
            assert!(error.ends_with(&NetConfigError::Mac(mac.to_owned()).to_string()), "{error}");
        }
        let error = read("net,tap=t,mtu=67").unwrap_err();
        assert_eq!(error, "`mtu=67` is not between 68 and 65521");
        assert!(read("net,tap=t,mtu=65522").is_err());
        assert!(read("net,tap=t,queues=17").is_err());
    }
}
