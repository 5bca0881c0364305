//! CMOS: the MC146818 real-time clock and 128 bytes of RAM, at ports 0x70 and 0x71.
//!
//! Source: Motorola MC146818A datasheet; RAM layout: IBM PC AT Technical Reference and `SeaBIOS` (src/hw/rtc.h).
//!
//! | offset | port | register |
//! | --- | --- | --- |
//! | 0 | 0x70 | index, write only (reads ones); its bit 7 masks NMIs on a PC and is ignored |
//! | 1 | 0x71 | the byte at the index |
//!
//! | index | byte |
//! | --- | --- |
//! | 0, 2, 4, 6-9, 0x32 | second, minute, hour, weekday (1 is Sunday), day, month, year, century |
//! | 1, 3, 5 | alarm: RAM |
//! | 0xA | control; bit 7, update in progress, is 0 |
//! | 0xB | bit 2: binary, not BCD; bit 1: 24 hours, not 12; the other bits are RAM |
//! | 0xC | interrupt flags: 0 |
//! | 0xD | 0x80: RAM and time are valid; read only |
//! | 0x15-0x18, 0x30-0x31, 0x34-0x35, 0x5B-0x5D | sizes of memory |
//! | all else | RAM, zero at the start, 0xF (shutdown status) among it |
//!
//! The clock shows the host's time in UTC; writes to it are ignored, so a guest cannot make it wrong. It raises no
//! interrupt (IRQ 8): no alarm, no periodic or update interrupt.

use crate::bus::BusDevice;
use crate::legacy::registers::answer_byte;
use std::time::{Duration, SystemTime};

mod civil;

use civil::Civil;

const INDEX: u64 = 0;
const DATA: u64 = 1;

const SECOND: u8 = 0x00;
const MINUTE: u8 = 0x02;
const HOUR: u8 = 0x04;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const CONTROL_A: u8 = 0x0a;
const CONTROL_B: u8 = 0x0b;
const FLAGS: u8 = 0x0c;
const VALID: u8 = 0x0d;
const BASE_MEMORY: usize = 0x15;
const EXTENDED_MEMORY: usize = 0x17;
const EXTENDED_MEMORY_COPY: usize = 0x30;
const CENTURY: u8 = 0x32;
const MEMORY_ABOVE_16M: usize = 0x34;
const MEMORY_ABOVE_4G: usize = 0x5b;

const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// The 32,768 Hz time base and 1024 Hz periodic rate that a PC's BIOS sets.
const CONTROL_A_START: u8 = 0x26;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const AFTERNOON: u8 = 1 << 7;
const VALID_RAM_AND_TIME: u8 = 1 << 7;

/// A PC has 640 KiB below the VGA hole.
const BASE_MEMORY_KIB: u64 = 640;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The clock and its RAM.
pub struct Cmos {
    index: u8,
    ram: [u8; 128],
    clock: Box<dyn Fn() -> SystemTime + Send>,
    shown: Snapshot,
}

/// The time that all time registers show.
struct Snapshot {
    taken: SystemTime,
    civil: Civil,
}

impl Cmos {
    /// Length of the port range in bytes.
    pub const LEN: u64 = 2;

    /// A clock that follows `clock`, and RAM that tells of a guest with `below_4g` and `above_4g` bytes of memory on
    /// either side of 4 GiB.
    pub fn new(below_4g: u64, above_4g: u64, clock: impl Fn() -> SystemTime + Send + 'static) -> Self {
        let mut ram = [0; 128];
        ram[usize::from(CONTROL_A)] = CONTROL_A_START;
        ram[usize::from(CONTROL_B)] = HOURS_24;
        let extended = below_4g.saturating_sub(MIB) / KIB;
        store(&mut ram, BASE_MEMORY, 2, BASE_MEMORY_KIB);
        store(&mut ram, EXTENDED_MEMORY, 2, extended);
        store(&mut ram, EXTENDED_MEMORY_COPY, 2, extended);
        let above_16m = below_4g.saturating_sub(16 * MIB) / (64 * KIB);
        store(&mut ram, MEMORY_ABOVE_16M, 2, above_16m);
        store(&mut ram, MEMORY_ABOVE_4G, 3, above_4g / (64 * KIB));
        let shown = Snapshot::new(clock());
        Self { index: 0, ram, clock: Box::new(clock), shown }
    }

    fn read_selected(&mut self) -> u8 {
        match self.index {
            SECOND | MINUTE | HOUR | WEEKDAY | DAY | MONTH | YEAR | CENTURY => {
                self.refresh();
                self.time()
            }
            CONTROL_A => {
                self.shown = Snapshot::new((self.clock)());
                self.ram[usize::from(CONTROL_A)]
            }
            FLAGS => 0,
            VALID => VALID_RAM_AND_TIME,
            index => self.ram[usize::from(index)],
        }
    }

    fn write_selected(&mut self, value: u8) {
        match self.index {
            SECOND | MINUTE | HOUR | WEEKDAY | DAY | MONTH | YEAR | CENTURY | FLAGS | VALID => {}
            CONTROL_A => self.ram[usize::from(CONTROL_A)] = value & !UPDATE_IN_PROGRESS,
            index => self.ram[usize::from(index)] = value,
        }
    }

    /// Takes a new snapshot when a guest starts to read the time. It starts with the update bit, which promises that
    /// the time then stands still long enough to be read, or with the seconds; otherwise a second lasts a second.
    fn refresh(&mut self) {
        let now = (self.clock)();
        let age = now.duration_since(self.shown.taken);
        if self.index == SECOND || age.map_or(true, |age| age >= Duration::from_secs(1)) {
            self.shown = Snapshot::new(now);
        }
    }

    fn time(&self) -> u8 {
        let civil = &self.shown.civil;
        match self.index {
            SECOND => self.encode(civil.second),
            MINUTE => self.encode(civil.minute),
            HOUR => self.hour(civil.hour),
            WEEKDAY => self.encode(civil.weekday),
            DAY => self.encode(civil.day),
            MONTH => self.encode(civil.month),
            YEAR => self.encode((civil.year % 100) as u8),
            _ => self.encode((civil.year / 100 % 100) as u8),
        }
    }

    fn hour(&self, hour: u8) -> u8 {
        if self.control_b(HOURS_24) {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve) | if hour < 12 { 0 } else { AFTERNOON }
    }

    /// A number below 100 in BCD, or in binary if the guest chose that.
    fn encode(&self, value: u8) -> u8 {
        if self.control_b(BINARY) { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn control_b(&self, bit: u8) -> bool {
        self.ram[usize::from(CONTROL_B)] & bit != 0
    }
}

impl BusDevice for Cmos {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        answer_byte(data, || match offset {
            DATA => self.read_selected(),
            _ => 0xff,
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data.first()) {
            (INDEX, Some(&value)) => self.index = value & 0x7f,
            (DATA, Some(&value)) => self.write_selected(value),
            _ => {}
        }
    }
}

impl Snapshot {
    fn new(taken: SystemTime) -> Self {
        let since_epoch = taken.duration_since(SystemTime::UNIX_EPOCH);
        let civil = Civil::from_unix(since_epoch.unwrap_or_default().as_secs());
        Self { taken, civil }
    }
}

/// Stores `value` little endian in `len` bytes, or as much as they can say.
fn store(ram: &mut [u8; 128], at: usize, len: usize, value: u64) {
    let most = (1 << (8 * len)) - 1;
    let bytes = value.min(most).to_le_bytes();
    ram[at..at + len].copy_from_slice(&bytes[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// 2026-11-21 22:05:09, a Saturday.
    const NOW: u64 = 1_795_298_709;

    /// A clock that shows the given milliseconds since 1970.
    fn cmos_at(seconds: u64) -> (Cmos, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(seconds * 1000));
        let source = time.clone();
        let clock = move || SystemTime::UNIX_EPOCH + Duration::from_millis(source.load(Ordering::Relaxed));
        (Cmos::new(3328 << 20, 5 << 30, clock), time)
    }

    fn get(cmos: &mut Cmos, index: u8) -> u8 {
        cmos.write(INDEX, &[index]);
        let mut data = [0; 1];
        cmos.read(DATA, &mut data);
        data[0]
    }

    fn set(cmos: &mut Cmos, index: u8, value: u8) {
        cmos.write(INDEX, &[index]);
        cmos.write(DATA, &[value]);
    }

    fn time(cmos: &mut Cmos) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOUR, MINUTE, SECOND].map(|index| get(cmos, index))
    }

    #[test]
    fn shows_the_time_in_each_format() {
        let (mut cmos, _) = cmos_at(NOW);
        let bcd = [0x20, 0x26, 0x11, 0x21, 7, 0x22, 0x05, 0x09];
        assert_eq!(time(&mut cmos), bcd);
        set(&mut cmos, CONTROL_B, HOURS_24 | BINARY);
        assert_eq!(time(&mut cmos), [20, 26, 11, 21, 7, 22, 5, 9]);
        set(&mut cmos, CONTROL_B, 0);
        assert_eq!(get(&mut cmos, HOUR), 0x90);
        set(&mut cmos, CONTROL_B, BINARY);
        assert_eq!(get(&mut cmos, HOUR), 0x8a);
        for (hour, shown) in [(0, 0x0c), (12, 0x8c), (13, 0x81)] {
            let (mut cmos, _) = cmos_at(hour * 3600);
            set(&mut cmos, CONTROL_B, BINARY);
            assert_eq!(get(&mut cmos, HOUR), shown);
        }
    }

    #[test]
    fn the_time_stands_still_after_the_update_bit_was_read() {
        let (mut cmos, clock) = cmos_at(NOW);
        clock.store((NOW + 50) * 1000 + 900, Ordering::Relaxed);
        assert_eq!(get(&mut cmos, CONTROL_A), CONTROL_A_START);
        clock.fetch_add(200, Ordering::Relaxed);
        assert_eq!(get(&mut cmos, MINUTE), 0x05);
        assert_eq!(get(&mut cmos, SECOND), 0x00);
        assert_eq!(get(&mut cmos, MINUTE), 0x06);
    }

    #[test]
    fn a_register_that_is_read_alone_follows_the_clock() {
        let (mut cmos, clock) = cmos_at(NOW);
        clock.fetch_add(10 * 24 * 3600 * 1000, Ordering::Relaxed);
        assert_eq!(get(&mut cmos, MONTH), 0x12);
        clock.store(NOW * 1000, Ordering::Relaxed);
        assert_eq!(get(&mut cmos, MONTH), 0x11, "the host's clock was set back");
    }

    #[test]
    fn the_guest_cannot_set_the_time_or_the_flags() {
        let (mut cmos, _) = cmos_at(NOW);
        let before = time(&mut cmos);
        for index in [SECOND, MINUTE, HOUR, WEEKDAY, DAY, MONTH, YEAR, CENTURY] {
            set(&mut cmos, index, 0x11);
        }
        assert_eq!(time(&mut cmos), before);
        for (index, kept) in [(CONTROL_A, 0x7f), (FLAGS, 0), (VALID, 0x80)] {
            set(&mut cmos, index, 0xff);
            assert_eq!(get(&mut cmos, index), kept);
        }
    }

    #[test]
    fn ram_keeps_bytes_and_the_nmi_bit_is_no_index() {
        let (mut cmos, _) = cmos_at(NOW);
        set(&mut cmos, 0x80 | 0x0f, 0x0a);
        assert_eq!(get(&mut cmos, 0x0f), 0x0a);
        assert_eq!(get(&mut cmos, 0x7f), 0);
        let mut both = [0; 4];
        cmos.read(INDEX, &mut both);
        assert_eq!(both, [0xff; 4]);
    }

    #[test]
    fn memory_sizes_are_capped_by_their_fields() {
        let sizes = |below, above| {
            let mut cmos = Cmos::new(below, above, SystemTime::now);
            let mut word = |at: u8| u32::from(get(&mut cmos, at)) | u32::from(get(&mut cmos, at + 1)) << 8;
            let words = [0x15, 0x17, 0x30, 0x34, 0x5b].map(&mut word);
            (words, get(&mut cmos, 0x5d))
        };
        assert_eq!(sizes(64 << 20, 0), ([640, 0xfc00, 0xfc00, 768, 0], 0));
        let large = ([640, 0xffff, 0xffff, 0xcf00, 0x4000], 1);
        assert_eq!(sizes(3328 << 20, 5 << 30), large);
        assert_eq!(sizes(0, u64::MAX), ([640, 0, 0, 0, 0xffff], 0xff));
    }
}
