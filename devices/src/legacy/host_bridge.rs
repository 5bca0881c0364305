//! PCI host bridge of a PC, alone on its bus, at ports 0xCF8 to 0xCFF: `SeaBIOS` wants one to make its own memory writable.
//!
//! Source: Intel 440FX datasheet, section 3.2 (registers), with the subsystem ID by which QEMU's is told apart; PCI Local Bus
//! Specification 2.1, section 3.7.4.1 (configuration mechanism 1).
//!
//! | offset | port | register |
//! | --- | --- | --- |
//! | 0 | 0xCF8 | address, 32 bits |
//! | 1 | 0xCF9 | for accesses of one byte: the reset control register |
//! | 4-7 | 0xCFC-0xCFF | the addressed register; all ones where no device is |
//!
//! | configuration register | value |
//! | --- | --- |
//! | 0x00, 0x08, 0x2C | identity |
//! | 0x59-0x5F | what is ROM and what RAM from 0xC_0000 to 0x10_0000: read back as written, for all of it is RAM |

use super::reset::ResetControl;
use crate::bus::BusDevice;

const RESET: u64 = 1;
const DATA: u64 = 4;

const ENABLE: u32 = 1 << 31;
/// Bus, device and function of an address.
const FUNCTION: u32 = 0x00ff_ff00;
/// Its 4-byte register.
const REGISTER: u32 = 0xfc;

const IDENTITY: [(usize, u32); 3] = [(0x00, 0x1237_8086), (0x08, 0x0600_0002), (0x2c, 0x1100_1af4)];
const FIRST_ATTRIBUTE: usize = 0x59;
const ATTRIBUTES: usize = 7;

/// The host bridge, with the reset control register that lies between its ports.
pub struct HostBridge {
    address: u32,
    configuration: [u8; 256],
    reset: ResetControl,
}

impl HostBridge {
    /// Length of the port range in bytes.
    pub const LEN: u64 = 8;

    /// A bridge around `reset`.
    pub fn new(reset: ResetControl) -> Self {
        let mut configuration = [0; 256];
        for (register, value) in IDENTITY {
            configuration[register..register + 4].copy_from_slice(&value.to_le_bytes());
        }
        Self { address: 0, configuration, reset }
    }

    /// The configuration registers from the addressed one on, up to its end.
    fn selected(&mut self, offset: u64) -> Option<&mut [u8]> {
        let here = self.address & ENABLE != 0 && self.address & FUNCTION == 0;
        let first = (self.address & REGISTER) as usize;
        let skip = offset.checked_sub(DATA).and_then(|skip| usize::try_from(skip).ok())?;
        self.configuration.get_mut(first..first + 4).filter(|_| here)?.get_mut(skip..)
    }
}

impl BusDevice for HostBridge {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (RESET, 1) => self.reset.read(0, data),
            _ => {
                data.fill(0xff);
                let shown = self.selected(offset).unwrap_or_default();
                data.iter_mut().zip(shown).for_each(|(byte, register)| *byte = *register);
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]),
            (RESET, [_]) => self.reset.write(0, data),
            _ => {
                let first = (self.address & REGISTER) as usize + offset.saturating_sub(DATA).min(4) as usize;
                let registers = self.selected(offset).unwrap_or_default();
                for (at, (register, byte)) in (first..).zip(registers.iter_mut().zip(data)) {
                    if (FIRST_ATTRIBUTE..FIRST_ATTRIBUTE + ATTRIBUTES).contains(&at) {
                        *register = *byte;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::GuestEvent;
    use crate::event::tests::Recorder;

    fn read<const N: usize>(bridge: &mut HostBridge, address: u32, offset: u64) -> [u8; N] {
        bridge.write(0, &address.to_le_bytes());
        let mut data = [0x55; N];
        bridge.read(offset, &mut data);
        data
    }

    #[test]
    fn only_the_bridge_is_on_the_bus() {
        let mut bridge = HostBridge::new(ResetControl::new(Recorder::new()));
        assert_eq!(read(&mut bridge, ENABLE, DATA), 0x1237_8086_u32.to_le_bytes());
        assert_eq!(read(&mut bridge, ENABLE, DATA + 2), 0x1237_u16.to_le_bytes());
        assert_eq!(read(&mut bridge, ENABLE, 0), ENABLE.to_le_bytes());
        for absent in [ENABLE | 1 << 8, ENABLE | 1 << 11, ENABLE | 1 << 16, 0] {
            assert_eq!(read(&mut bridge, absent, DATA), [0xff; 4]);
        }
    }

    #[test]
    fn only_attributes_are_written() {
        let mut bridge = HostBridge::new(ResetControl::new(Recorder::new()));
        for register in [0x00, 0x58, 0x5c] {
            bridge.write(0, &(ENABLE | register).to_le_bytes());
            bridge.write(DATA, &[0x33; 4]);
        }
        assert_eq!(read(&mut bridge, ENABLE, DATA), 0x1237_8086_u32.to_le_bytes());
        assert_eq!(read(&mut bridge, ENABLE | 0x58, DATA), [0, 0x33, 0x33, 0x33]);
        bridge.write(DATA + 1, &[0x10]);
        assert_eq!(read(&mut bridge, ENABLE | 0x58, DATA), [0, 0x10, 0x33, 0x33]);
        assert_eq!(read(&mut bridge, ENABLE | 0x5c, DATA), [0x33; 4]);
    }

    #[test]
    fn the_reset_register_is_where_the_address_is() {
        let events = Recorder::new();
        let mut bridge = HostBridge::new(ResetControl::new(events.clone()));
        bridge.write(0, &0x8000_0600_u32.to_le_bytes());
        assert_eq!(events.take(), []);
        bridge.write(RESET, &[6]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }
}
