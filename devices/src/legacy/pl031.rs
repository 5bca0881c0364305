//! PL031 real-time clock: the time of day in seconds since 1970, in UTC.
//!
//! Source: Arm DDI 0224, "`PrimeCell` Real Time Clock (PL031) Technical Reference Manual"; the registers are vm-superio's
//! `Rtc`. It has no alarm: the match register is stored, and the interrupt never comes. A guest that sets the clock sets its
//! own. Its registers are 32 bits wide.

use crate::bus::BusDevice;
use crate::legacy::registers::{answer_word, word};
use vm_superio::Rtc;
use vm_superio::rtc_pl031::NoEvents;

/// The clock.
pub struct Pl031(Rtc<NoEvents>);

impl Pl031 {
    /// Length of the register range in bytes.
    pub const LEN: u64 = 0x1000;

    /// A clock that shows the host's time.
    pub fn new() -> Self {
        Self(Rtc::new())
    }
}

impl Default for Pl031 {
    fn default() -> Self {
        Self::new()
    }
}

impl BusDevice for Pl031 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut register = [0; 4];
        if let Some(offset) = register_offset(offset) {
            self.0.read(offset, &mut register);
        }
        answer_word(data, u32::from_le_bytes(register));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Some(offset), false) = (register_offset(offset), data.is_empty()) {
            self.0.write(offset, &word(data).to_le_bytes());
        }
    }
}

fn register_offset(offset: u64) -> Option<u16> {
    u16::try_from(offset).ok().filter(|&offset| u64::from(offset) < Pl031::LEN && offset.is_multiple_of(4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    fn read(rtc: &mut Pl031, offset: u64) -> u64 {
        let mut data = [0xFF; 8];
        rtc.read(offset, &mut data);
        u64::from_le_bytes(data)
    }

    #[test]
    fn it_shows_the_hosts_time_until_it_is_set() {
        let mut rtc = Pl031::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((now..now + 2).contains(&read(&mut rtc, 0)));
        rtc.write(8, &1000_u32.to_le_bytes());
        assert!((1000..1002).contains(&read(&mut rtc, 0)));
    }

    #[test]
    fn it_is_a_pl031_of_arm_and_takes_any_access() {
        let mut rtc = Pl031::new();
        let id: Vec<_> = (0xFE0..0x1000).step_by(4).map(|offset| read(&mut rtc, offset)).collect();
        assert_eq!(id, [0x31, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1]);
        for offset in (0..Pl031::LEN + 8).chain([u64::MAX]) {
            for width in [0, 1, 2, 4, 8] {
                rtc.read(offset, &mut vec![0; width]);
                rtc.write(offset, &vec![0xFF; width]);
            }
        }
    }
}
