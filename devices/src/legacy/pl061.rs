//! PL061: eight general-purpose input and output lines, to which boards connect buttons.
//!
//! Source: Arm DDI 0190, "`PrimeCell` General Purpose Input/Output (PL061) Technical Reference Manual". Nothing is connected: inputs
//! are low, outputs are kept and drive nothing, and no interrupt comes. Its registers are 32 bits wide, of which 8 are used.
//!
//! | offset | register |
//! | --- | --- |
//! | 0x000 to 0x3FC | `GPIODATA`: address bits 9 to 2 select the lines |
//! | 0x400 | `GPIODIR`: a one makes a line an output |
//! | 0x404, 0x408, 0x40C, 0x410 | `GPIOIS`, `GPIOIBE`, `GPIOIEV`, `GPIOIE`: kinds of interrupts and their mask |
//! | 0x414, 0x418 | `GPIORIS`, `GPIOMIS`: interrupts, none |
//! | 0x41C | `GPIOIC`: takes interrupts back |
//! | 0x420 | `GPIOAFSEL`: stored |
//! | 0xFE0 to 0xFFC | identification |

use crate::bus::BusDevice;
use crate::legacy::registers::{answer_word, primecell_id, word};

const DATA_LAST: u64 = 0x3FC;
const DIRECTION: u64 = 0x400;
const ALTERNATE_FUNCTION: u64 = 0x420;
const IDENTIFICATION: u64 = 0xFE0;
const PERIPHERAL_ID: [u8; 4] = [0x61, 0x10, 0x04, 0x00];
/// `GPIODIR`, `GPIOIS`, `GPIOIBE`, `GPIOIEV` and `GPIOIE`, then, at the end, `GPIOAFSEL`.
const STORED_COUNT: usize = 6;

/// The lines' controller.
#[derive(Default)]
pub struct Pl061 {
    outputs: u8,
    stored: [u8; STORED_COUNT],
}

impl Pl061 {
    /// Length of the register range in bytes.
    pub const LEN: u64 = 0x1000;

    /// A controller with all lines as inputs.
    pub fn new() -> Self {
        Self::default()
    }

    fn direction(&self) -> u8 {
        self.stored[0]
    }
}

impl BusDevice for Pl061 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            0..=DATA_LAST => u32::from(self.outputs & self.direction() & lines(offset)),
            IDENTIFICATION..=0xFFC => primecell_id(offset, PERIPHERAL_ID),
            _ => stored(offset).map_or(0, |index| self.stored[index].into()),
        };
        answer_word(data, value);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let value = word(data) as u8;
        if data.is_empty() {
            return;
        }
        if offset <= DATA_LAST {
            let lines = lines(offset);
            self.outputs = self.outputs & !lines | value & lines;
        } else if let Some(index) = stored(offset) {
            self.stored[index] = value;
        }
    }
}

/// The lines that an access to the data register is about.
const fn lines(offset: u64) -> u8 {
    (offset >> 2) as u8
}

fn stored(offset: u64) -> Option<usize> {
    match offset {
        DIRECTION..=0x410 => Some(((offset - DIRECTION) / 4) as usize),
        ALTERNATE_FUNCTION => Some(STORED_COUNT - 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(gpio: &mut Pl061, offset: u64) -> u32 {
        let mut data = [0xFF; 4];
        gpio.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn outputs_read_back_through_their_address_and_inputs_are_low() {
        let mut gpio = Pl061::new();
        gpio.write(DIRECTION, &[0x0F]);
        gpio.write(0x3FC, &[0xFF]);
        assert_eq!(read(&mut gpio, 0x3FC), 0x0F);
        assert_eq!(read(&mut gpio, 0x02 << 2), 0x02);
        gpio.write(0x01 << 2, &[0]);
        assert_eq!(read(&mut gpio, 0x3FC), 0x0E);
    }

    #[test]
    fn it_is_a_pl061_of_arm_and_takes_any_access() {
        let mut gpio = Pl061::new();
        let id: Vec<_> = (0xFE0..0x1000).step_by(4).map(|offset| read(&mut gpio, offset)).collect();
        assert_eq!(id, [0x61, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1]);
        for offset in (0..Pl061::LEN + 8).chain([u64::MAX]) {
            for width in [0, 1, 2, 4, 8] {
                gpio.read(offset, &mut vec![0; width]);
                gpio.write(offset, &vec![0xFF; width]);
            }
        }
        assert_eq!((read(&mut gpio, 0x414), read(&mut gpio, 0x418)), (0, 0));
    }
}
