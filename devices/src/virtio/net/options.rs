//! What can be said about a network device.

use std::ops::RangeInclusive;

use thiserror::Error;

use crate::registry::{Key, Kind, Options, Value};

/// The least MTU that a device may have (section 5.1.4.1), and the most that a tap can: its frame is 65535 bytes long
/// with the Ethernet header (drivers/net/tun.c).
const MTU: RangeInclusive<u64> = 68..=65521;
/// Each queue pair is a thread, and a guest uses no more than it has vCPUs.
const QUEUES: RangeInclusive<u64> = 1..=16;

/// Name, keys and help.
pub const KIND_OPTIONS: Kind = Kind {
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
    example: "--device net,tap=tap0,mac=02:00:00:00:00:01,queues=2",
    standard: false,
};

/// What was said, with what holds where nothing was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetOptions {
    /// Name of the tap.
    pub tap: String,
    /// The guest's MAC address.
    pub mac: [u8; 6],
    /// Bytes; the tap's if none.
    pub mtu: Option<u16>,
    /// Queue pairs.
    pub queues: usize,
    /// Bytes per second to the guest.
    pub rx_rate: Option<u64>,
    /// Bytes per second from the guest.
    pub tx_rate: Option<u64>,
}

/// What cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NetOptionError {
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

impl NetOptions {
    /// Reads the keys.
    pub fn new(options: &Options) -> Result<Self, NetOptionError> {
        let tap = options.get("tap").ok_or(NetOptionError::NoTap)?.to_owned();
        let mac = match options.get("mac") {
            Some(text) => parse_mac(text).ok_or_else(|| NetOptionError::Mac(text.to_owned()))?,
            None => mac_of(&tap),
        };
        let mtu = within(options, "mtu", MTU)?.map(|mtu| mtu as u16);
        let queues = within(options, "queues", QUEUES)?.map_or(1, |queues| queues as usize);
        Ok(Self { tap, mac, mtu, queues, rx_rate: options.size("rx-rate"), tx_rate: options.size("tx-rate") })
    }
}

fn within(options: &Options, key: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, NetOptionError> {
    match options.size(key) {
        Some(value) if !range.contains(&value) => {
            Err(NetOptionError::Range { key, value, least: *range.start(), most: *range.end() })
        }
        value => Ok(value),
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

    fn read(device: &str) -> Result<NetOptions, NetOptionError> {
        NetOptions::new(&KIND_OPTIONS.parse(device).unwrap())
    }

    #[test]
    fn all_but_the_tap_has_a_default() {
        let options = read("net,tap=tap0").unwrap();
        assert_eq!((options.mtu, options.queues, options.rx_rate, options.tx_rate), (None, 1, None, None));
        assert_eq!(read("net,mtu=1500"), Err(NetOptionError::NoTap));
        let all = read("net,tap=tap0,mac=52:54:00:AB:cd:ef,mtu=9000,queues=4,rx-rate=1M,tx-rate=2M").unwrap();
        assert_eq!(all.mac, [0x52, 0x54, 0, 0xAB, 0xCD, 0xEF]);
        assert_eq!((all.mtu, all.queues, all.rx_rate, all.tx_rate), (Some(9000), 4, Some(1 << 20), Some(2 << 20)));
    }

    #[test]
    fn the_address_of_a_name_stays_and_differs_from_others() {
        let mac = |name: &str| read(&format!("net,tap={name}")).unwrap().mac;
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
            assert!(matches!(read(&format!("net,tap=t,mac={mac}")), Err(NetOptionError::Mac(_))), "{mac}");
        }
        let error = read("net,tap=t,mtu=67").unwrap_err().to_string();
        assert_eq!(error, "`mtu=67` is not between 68 and 65521");
        assert!(read("net,tap=t,mtu=65522").is_err());
        assert!(read("net,tap=t,queues=17").is_err());
    }
}
