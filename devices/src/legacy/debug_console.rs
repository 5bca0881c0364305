//! Debug console at port 0x402: what firmware says of itself goes to the log, a line at a time.
//!
//! Source: QEMU's `isa-debugcon` (hw/char/debugcon.c).
//!
//! | offset | register |
//! | --- | --- |
//! | 0 | write: a byte; reads 0xE9, by which `SeaBIOS` knows that somebody listens |

use crate::bus::BusDevice;
use crate::legacy::registers::answer_byte;

const PRESENT: u8 = 0xe9;
/// A longer line is cut into several, in bytes.
const LINE_MAX: usize = 256;

/// The debug console.
#[derive(Default)]
pub struct DebugConsole(Vec<u8>);

impl DebugConsole {
    /// Takes a byte; returns the line that it completes.
    fn put(&mut self, byte: u8) -> Option<String> {
        if byte != b'\n' {
            self.0.push(byte);
        }
        if byte != b'\n' && self.0.len() < LINE_MAX {
            return None;
        }
        let line = String::from_utf8_lossy(&self.0).chars().filter(|char| !char.is_control()).collect();
        self.0.clear();
        Some(line)
    }
}

impl BusDevice for DebugConsole {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        answer_byte(data, || PRESENT);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let Some(line) = data.first().and_then(|&byte| self.put(byte)) {
            log::debug!("Firmware: {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_printable_and_bounded() {
        let mut console = DebugConsole::default();
        let mut lines = Vec::new();
        lines.extend(b"a\x1b[0mb\r\n\n".iter().filter_map(|&byte| console.put(byte)));
        assert_eq!(lines, ["a[0mb", ""]);
        let lines: Vec<_> = [b'x'; 600].iter().filter_map(|&byte| console.put(byte)).collect();
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [256, 256]);
    }

    #[test]
    fn a_read_tells_that_it_is_there() {
        let mut data = [0; 2];
        DebugConsole::default().read(0, &mut data);
        assert_eq!(data, [0xe9, 0xff]);
    }
}
