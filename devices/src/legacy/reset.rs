//! Reset control register of a PC chipset at port 0xCF9.
//!
//! Source: Intel ICH9 datasheet, section 13.7.5 (`RST_CNT`). Linux writes it for `reboot=pci`.
//!
//! | offset | bits | meaning |
//! | --- | --- | --- |
//! | 0 | 1 | system reset: hard, not soft |
//! | | 2 | reset the CPU; reads 0 |
//! | | 3 | full reset: with a power cycle |
//!
//! Every kind of reset is the same to a virtual machine.

use crate::bus::BusDevice;
use crate::event::{EventSink, GuestEvent};
use crate::legacy::registers::answer_byte;
use std::sync::Arc;

const RESET_CPU: u8 = 1 << 2;
/// The bits that a guest reads back as it wrote them: system reset and full reset.
const STORED: u8 = 1 << 1 | 1 << 3;

/// The reset control register.
pub struct ResetControl {
    value: u8,
    events: Arc<dyn EventSink>,
}

impl ResetControl {
    /// A register that reports resets to `events`.
    pub fn new(events: Arc<dyn EventSink>) -> Self {
        Self { value: 0, events }
    }
}

impl BusDevice for ResetControl {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        answer_byte(data, || self.value);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        self.value = value & STORED;
        if value & RESET_CPU != 0 {
            self.events.event(GuestEvent::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::Recorder;

    #[test]
    fn bit_two_resets() {
        for value in [0x04, 0x06, 0x0e] {
            let events = Recorder::new();
            let mut reset = ResetControl::new(events.clone());
            // Linux first announces the kind of reset, then asks for it.
            reset.write(0, &[value & !RESET_CPU]);
            assert_eq!(events.take(), []);
            reset.write(0, &[value]);
            assert_eq!(events.take(), [GuestEvent::Reset]);
            let mut read = [0xff];
            reset.read(0, &mut read);
            assert_eq!(read, [value & !RESET_CPU]);
        }
    }
}
