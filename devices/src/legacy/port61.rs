//! System control port B (0x61) of a machine without a timer chip: gates that read back, outputs that never stand still.
//!
//! Source: IBM PC AT Technical Reference, "System control port"; Intel ICH9 datasheet, section 13.7.1 (`NMI_SC`).
//!
//! | offset | bits | meaning |
//! | --- | --- | --- |
//! | 0 | 0-3 | gate of timer channel 2, speaker, two NMI enables: read back as written |
//! | | 4 | refresh toggle: changes with each read |
//! | | 5 | output of timer channel 2: changes with each read |
//! | | 6-7 | no error |
//!
//! Kernels wait for bits 4 and 5 to become 1, or 0, to measure time. Here neither lasts, so none waits for ever, and those
//! that check how long it took see that there is nothing to measure by.

use crate::bus::BusDevice;
use crate::legacy::registers::answer_byte;

const STORED: u8 = 0x0f;
const OUTPUTS: u8 = 1 << 4 | 1 << 5;

/// The port.
#[derive(Default)]
pub struct Port61(u8);

impl BusDevice for Port61 {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        answer_byte(data, || {
            self.0 ^= OUTPUTS;
            self.0
        });
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let Some(&value) = data.first() {
            self.0 = self.0 & OUTPUTS | value & STORED;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_read_back_and_outputs_change() {
        let mut port = Port61::default();
        port.write(0, &[0xff]);
        let reads = [(); 3].map(|()| {
            let mut data = [0; 1];
            port.read(0, &mut data);
            data[0]
        });
        assert_eq!(reads, [0x3f, 0x0f, 0x3f]);
    }
}
