//! NOR flash that firmware keeps its variables in: two chips of 16 bits side by side on a bus of 32, in step.
//!
//! Sources: JEDEC JESD68.01, "Common Flash Memory Interface (CFI)", and JEP137, command set 1; the commands are those of Intel's
//! `StrataFlash` P30 (datasheet 320003, "Command Bus Cycles").
//!
//! While the chips are in array mode the guest reads their memory by itself. A write is a command, and until a command takes
//! the chips back to array mode, reads come here as well.
//!
//! | command | then | reads give |
//! | --- | --- | --- |
//! | 0xFF, 0xF0 | | the array |
//! | 0x70, 0x50 | | the status: ready, no error |
//! | 0x90 | | word 0: manufacturer; 1: device; every other word, a block's lock state among them: 0 |
//! | 0x98 | | the CFI query structure |
//! | 0x40, 0x10 | data | the status |
//! | 0xE8 | count of words less one, so many words of data, confirmation | the status |
//! | 0x20 | 0xD0, in the block to erase | the status |
//! | 0x60 | any: no block is ever locked | the status |
//!
//! Everything is done at once, and data for the buffer is programmed as it comes. Programming clears bits; only erasing sets them.

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use crate::bus::BusDevice;

/// Bytes that are erased together, of both chips: what edk2 takes for granted.
const BLOCK: u64 = 256 << 10;
/// Bytes of the bus.
const BUS: u64 = 4;

const STATUS_READY: u8 = 0x80;
/// Intel, and the smallest chip of its P30 family; no driver here goes by them.
const IDENTIFIER: [u8; 2] = [0x89, 0x17];
/// The bytes that the structure begins with, at word 0x10: "QRY", command set 1, no extended table, no alternative.
const QUERY_START: u64 = 0x10;
const QUERY_IDENTIFICATION: [u8; 11] = [b'Q', b'R', b'Y', 1, 0, 0, 0, 0, 0, 0, 0];
/// Supply voltages in BCD (1.7 to 2.0 V, no second supply), then times as powers of two: microseconds of a word and of a buffer,
/// milliseconds of a block and of a chip, and factors from these to the longest times.
const QUERY_SYSTEM: [u8; 12] = [0x17, 0x20, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1];
/// A chip's bus: 16 bits.
const QUERY_X16: u8 = 1;
/// Size of a chip's write buffer in bytes, as a power of two: with both chips, 128 bytes.
const QUERY_BUFFER: u8 = 6;

/// The memory of the chips.
pub trait FlashArray: Send {
    /// Access to it.
    fn memory(&self) -> &GuestMemoryMmap;
    /// Whether the guest reads it by itself from now on. At the start it does.
    fn show(&mut self, shown: bool);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Array,
    Status,
    Identifier,
    Query,
    Program,
    Count,
    Buffer { left: u16 },
    Confirm,
    Erase,
    Lock,
}

/// The flash.
pub struct CfiFlash {
    array: Box<dyn FlashArray>,
    base: u64,
    len: u64,
    state: State,
}

impl CfiFlash {
    /// Erased flash whose memory is at the guest physical address `base`; `len` bytes, a power of two and not less than a block of
    /// 256 KiB.
    pub fn new(array: Box<dyn FlashArray>, base: u64, len: u64) -> Self {
        let mut flash = Self { array, base, len, state: State::Array };
        (0..len).step_by(BLOCK as usize).for_each(|block| flash.erase(block));
        flash
    }

    fn enter(&mut self, state: State) {
        if (self.state == State::Array) != (state == State::Array) {
            self.array.show(state == State::Array);
        }
        self.state = state;
    }

    fn command(&mut self, command: u8) {
        self.enter(match command {
            0xFF | 0xF0 => State::Array,
            0x70 | 0x50 => State::Status,
            0x90 => State::Identifier,
            0x98 => State::Query,
            0x40 | 0x10 => State::Program,
            0xE8 => State::Count,
            0x20 => State::Erase,
            0x60 => State::Lock,
            _ => return,
        });
    }

    /// What both chips say at this place of the bus while they do not give their array.
    fn answer(&self, word: u64) -> u8 {
        match self.state {
            State::Identifier => usize::try_from(word).ok().and_then(|word| IDENTIFIER.get(word)).copied().unwrap_or(0),
            State::Query => self.query(word),
            _ => STATUS_READY,
        }
    }

    fn query(&self, word: u64) -> u8 {
        let [blocks, _, ..] = (self.len / BLOCK).saturating_sub(1).to_le_bytes();
        // In units of 256 bytes, of one chip.
        let [size_low, size_high, ..] = (BLOCK / 2 / 256).to_le_bytes();
        let chip = (self.len / 2).trailing_zeros() as u8;
        let geometry = [chip, QUERY_X16, 0, QUERY_BUFFER, 0, 1, blocks, 0, size_low, size_high];
        let mut bytes = QUERY_IDENTIFICATION.iter().chain(&QUERY_SYSTEM).chain(&geometry).copied();
        let index = word.checked_sub(QUERY_START).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| bytes.nth(index)).unwrap_or(0)
    }

    fn program(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = [0xFF; 8];
        let count = data.len().min(bytes.len());
        let place = GuestAddress(self.base.saturating_add(offset));
        // The bus asks for nothing outside the device, whose memory all of it is.
        let _ = self.array.memory().read_slice(&mut bytes[..count], place);
        bytes.iter_mut().zip(data).for_each(|(byte, data)| *byte &= data);
        let _ = self.array.memory().write_slice(&bytes[..count], place);
    }

    /// Erases the block that holds `offset`.
    fn erase(&mut self, offset: u64) {
        let start = offset / BLOCK * BLOCK;
        if start < self.len {
            let ones = vec![0xFF; BLOCK.min(self.len - start) as usize];
            let _ = self.array.memory().write_slice(&ones, GuestAddress(self.base + start));
        }
    }
}

impl BusDevice for CfiFlash {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if self.state == State::Array {
            // An access that was on its way when the array came back.
            let _ = self.array.memory().read_slice(data, GuestAddress(self.base.saturating_add(offset)));
            return;
        }
        for (index, byte) in (0..).zip(data) {
            let place = offset.wrapping_add(index);
            // The chips' upper bytes are zero.
            *byte = if place % 2 == 0 { self.answer(place / BUS) } else { 0 };
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(&first) = data.first() else { return };
        match self.state {
            State::Program => {
                self.program(offset, data);
                self.enter(State::Status);
            }
            State::Count => self.enter(State::Buffer { left: u16::from(first) + 1 }),
            State::Buffer { left } => {
                self.program(offset, data);
                self.enter(if left > 1 { State::Buffer { left: left - 1 } } else { State::Confirm });
            }
            State::Erase => {
                if first == 0xD0 {
                    self.erase(offset);
                }
                self.enter(State::Status);
            }
            State::Lock | State::Confirm => self.enter(State::Status),
            State::Array | State::Status | State::Identifier | State::Query => self.command(first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const BASE: u64 = 0x400_0000;
    const LEN: u64 = 1 << 20;

    struct Memory {
        memory: GuestMemoryMmap,
        shown: Arc<AtomicBool>,
    }

    impl FlashArray for Memory {
        fn memory(&self) -> &GuestMemoryMmap {
            &self.memory
        }

        fn show(&mut self, shown: bool) {
            assert_ne!(self.shown.swap(shown, Ordering::Relaxed), shown, "shown or hidden twice");
        }
    }

    fn flash() -> (CfiFlash, Arc<AtomicBool>) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), LEN as usize)]).unwrap();
        let shown = Arc::new(AtomicBool::new(true));
        (CfiFlash::new(Box::new(Memory { memory, shown: Arc::clone(&shown) }), BASE, LEN), shown)
    }

    fn read(flash: &mut CfiFlash, offset: u64) -> u32 {
        let mut data = [0x55; 4];
        flash.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// A command to both chips, as drivers give it.
    fn send(flash: &mut CfiFlash, offset: u64, command: u32) {
        flash.write(offset, &(command | command << 16).to_le_bytes());
    }

    #[test]
    fn commands_hide_the_array_and_reading_it_again_shows_it() {
        let (mut flash, shown) = flash();
        assert_eq!(read(&mut flash, 0), 0xFFFF_FFFF);
        send(&mut flash, 0, 0x70);
        assert_eq!((read(&mut flash, 0x1234), shown.load(Ordering::Relaxed)), (0x0080_0080, false));
        send(&mut flash, 0, 0xFF);
        assert!(shown.load(Ordering::Relaxed));
        send(&mut flash, 0, 0x33);
        assert!(shown.load(Ordering::Relaxed), "an unknown command is none");
    }

    #[test]
    fn programming_clears_bits_and_erasing_a_block_sets_them() {
        let (mut flash, _) = flash();
        for value in [0xFFFF_0FF0_u32, 0x1234_FFFF] {
            send(&mut flash, 0x4_0000, 0x40);
            flash.write(0x4_0000, &value.to_le_bytes());
            assert_eq!(read(&mut flash, 0), 0x0080_0080);
        }
        send(&mut flash, 0, 0xE8);
        send(&mut flash, 0, 1);
        flash.write(0x8_0000, &7_u32.to_le_bytes());
        flash.write(0x8_0004, &8_u32.to_le_bytes());
        send(&mut flash, 0, 0xD0);
        send(&mut flash, 0, 0xFF);
        assert_eq!([0x4_0000, 0x8_0000, 0x8_0004].map(|at| read(&mut flash, at)), [0x1234_0FF0, 7, 8]);

        send(&mut flash, 0x7_FFFC, 0x20);
        send(&mut flash, 0x7_FFFC, 0xD0);
        send(&mut flash, 0, 0x20);
        send(&mut flash, 0, 0x33);
        send(&mut flash, 0, 0xFF);
        assert_eq!([0x4_0000, 0x8_0000].map(|at| read(&mut flash, at)), [0xFFFF_FFFF, 7]);
    }

    #[test]
    fn it_tells_its_properties() {
        let (mut flash, _) = flash();
        send(&mut flash, 0x55 * 4, 0x98);
        let query: Vec<_> = (0x10..0x31).map(|word| read(&mut flash, word * 4)).collect();
        assert_eq!(query[..3], [0x0051_0051, 0x0052_0052, 0x0059_0059]);
        // Each chip: 512 KiB, in one region of four blocks of 128 KiB.
        assert_eq!(
            (query[0x17] as u8, query[0x1C..].iter().map(|&word| word as u8).collect()),
            (19, vec![1, 3, 0, 0, 2])
        );
        send(&mut flash, 0, 0x90);
        assert_eq!([0, 1, 2].map(|word| read(&mut flash, word * 4)), [0x0089_0089, 0x0017_0017, 0]);
    }

    #[test]
    fn a_guest_may_write_anything_anywhere() {
        let (mut flash, _) = flash();
        for command in 0..=0xFF_u8 {
            for offset in [0, 1, 3, LEN - 1, LEN, u64::MAX] {
                for width in [0, 1, 2, 4, 8] {
                    flash.write(offset, &vec![command; width]);
                    flash.read(offset, &mut vec![0; width]);
                }
            }
        }
    }
}
