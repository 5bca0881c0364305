//! The registers of a VGA adapter in text mode, as far as a kernel that prints to 0xB_8000 goes. Nothing is displayed.
//!
//! Source: IBM VGA Technical Reference, "Registers". The text window itself is ordinary memory.
//!
//! | offset | port | register |
//! | --- | --- | --- |
//! | 0x04, 0x05 | 0x3B4, 0x3B5 | CRT controller of a monochrome adapter: index, data |
//! | 0x0A | 0x3BA | its input status 1 |
//! | 0x24, 0x25 | 0x3D4, 0x3D5 | CRT controller: index, data; 25 registers that read back, the cursor's place among them |
//! | 0x2A | 0x3DA | input status 1: display disabled (bit 0) and vertical retrace (bit 3) change with each read |
//! | 0x10-0x1F | 0x3C0-0x3CF | attributes, sequencer, palette, graphics: writes are dropped, reads give 0 |
//!
//! Other offsets drop writes and read 0.

use crate::bus::BusDevice;
use crate::legacy::registers::answer_byte;

const INDEX: u64 = 4;
const DATA: u64 = 5;
const STATUS: u64 = 10;
/// From a register of the monochrome adapter to the same one of a colour adapter.
const COLOUR: u64 = 0x20;

const BLANKING: u8 = 1 << 0 | 1 << 3;

/// The adapter.
#[derive(Default)]
pub struct Vga {
    index: u8,
    registers: [u8; 25],
    status: u8,
}

impl Vga {
    /// First port.
    pub const PORT: u16 = 0x3b0;
    /// Length of the port range in bytes.
    pub const LEN: u64 = 0x30;

    fn read_register(&mut self, offset: u64) -> u8 {
        match offset {
            INDEX => self.index,
            DATA => self.registers.get(usize::from(self.index)).copied().unwrap_or_default(),
            STATUS => {
                self.status ^= BLANKING;
                self.status
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u8) {
        match offset {
            INDEX => self.index = value,
            DATA => {
                if let Some(register) = self.registers.get_mut(usize::from(self.index)) {
                    *register = value;
                }
            }
            _ => {}
        }
    }
}

impl BusDevice for Vga {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        answer_byte(data, || self.read_register(fold(offset)));
    }

    /// A 16-bit write to an index register is its index and its value, as on the ISA bus.
    fn write(&mut self, offset: u64, data: &[u8]) {
        for (at, &value) in data.iter().take(2).enumerate() {
            self.write_register(fold(offset).saturating_add(at as u64), value);
        }
    }
}

/// The monochrome adapter's offset of a register.
const fn fold(offset: u64) -> u64 {
    if offset >= COLOUR { offset - COLOUR } else { offset }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vga: &mut Vga, offset: u64) -> u8 {
        let mut data = [0; 1];
        vga.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn the_cursor_reads_back() {
        let mut vga = Vga::default();
        for (register, value) in [(0x0e, 0x07), (0x0f, 0xcf)] {
            vga.write(0x24, &[register]);
            vga.write(0x25, &[value]);
        }
        assert_eq!(read(&mut vga, 0x25), 0xcf);
        vga.write(0x24, &[0x0e, 0x05]);
        assert_eq!([read(&mut vga, 0x24), read(&mut vga, 0x25), read(&mut vga, 0x05)], [0x0e, 0x05, 0x05]);
        vga.write(0x24, &[0xff, 0x05]);
        assert_eq!(read(&mut vga, 0x25), 0);
    }

    #[test]
    fn a_retrace_comes_and_goes() {
        let mut vga = Vga::default();
        assert_eq!([0x2a; 3].map(|offset| read(&mut vga, offset)), [9, 0, 9]);
        assert_eq!(read(&mut vga, 0x1c), 0);
    }
}
