//! An address space that the guest accesses with exits: memory-mapped or port I/O.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod error;

pub use error::{BusError, Span};

/// So many unmapped accesses are logged: enough to see what a guest probes for, too few to fill a log.
const LOGGED_UNMAPPED: u64 = 64;

/// What sits behind a bus. It knows offsets only.
///
/// KVM delivers accesses of 1, 2, 4 or 8 bytes, little endian; the bus may cut one short at the device's end. A device
/// defines what it does for any width, also 0, and any offset.
pub trait BusDevice: Send {
    /// Fills `data` with what the guest reads at `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes what the guest writes at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// One address space. It is built before the vCPUs run, then shared by their threads; each device has its own lock.
pub struct Bus {
    name: &'static str,
    slots: BTreeMap<u64, Slot>,
    unmapped: AtomicU64,
}

struct Slot {
    name: String,
    len: u64,
    /// The device's offset that the slot's first address shows.
    first_offset: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

impl Bus {
    /// An empty address space; `name` ("MMIO", "port") stands in errors and in the log.
    pub fn new(name: &'static str) -> Self {
        Self { name, slots: BTreeMap::new(), unmapped: AtomicU64::new(0) }
    }

    /// Places `device` at `base` with `len` bytes; it sees offsets from `base`.
    pub fn insert(
        &mut self,
        name: &str,
        device: Arc<Mutex<dyn BusDevice>>,
        base: u64,
        len: u64,
    ) -> Result<(), BusError> {
        self.insert_part(name, device, base, len, 0)
    }

    /// Places the `len` bytes of `device` from `first_offset` on at `base`: for a device whose registers lie apart.
    pub fn insert_part(
        &mut self,
        name: &str,
        device: Arc<Mutex<dyn BusDevice>>,
        base: u64,
        len: u64,
        first_offset: u64,
    ) -> Result<(), BusError> {
        self.check(name, base, len, first_offset)?;
        let slot = Slot { name: name.to_owned(), len, first_offset, device };
        self.slots.insert(base, slot);
        Ok(())
    }

    /// Reads `data.len()` bytes at `addr`. The device at `addr` answers; bytes beyond its end, or without a device all
    /// bytes, are ones. A device that begins within the access does not see it: a 32-bit access to the PCI address port
    /// 0xCF8 is not one to the reset port 0xCF9.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        let mapped = self.find(addr).map_or(0, |hit| {
            let mapped = hit.clip(data.len());
            hit.device().read(hit.offset, &mut data[..mapped]);
            mapped
        });
        if mapped < data.len() {
            data[mapped..].fill(0xff);
            self.count_unmapped("read", addr, data.len());
        }
    }

    /// Writes `data` at `addr`. The device at `addr` takes it; bytes beyond its end, or without a device all bytes, are
    /// dropped.
    pub fn write(&self, addr: u64, data: &[u8]) {
        let mapped = self.find(addr).map_or(0, |hit| {
            let mapped = hit.clip(data.len());
            hit.device().write(hit.offset, &data[..mapped]);
            mapped
        });
        if mapped < data.len() {
            self.count_unmapped("write", addr, data.len());
        }
    }

    /// How many accesses had a byte that no device answered.
    pub fn unmapped(&self) -> u64 {
        self.unmapped.load(Ordering::Relaxed)
    }

    /// Name, base and length of every range, in the order of addresses.
    pub fn devices(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.slots.iter().map(|(&base, slot)| (slot.name.as_str(), base, slot.len))
    }

    fn check(&self, name: &str, base: u64, len: u64, first_offset: u64) -> Result<(), BusError> {
        let (bus, name) = (self.name, name.to_owned());
        let Some(most) = len.checked_sub(1) else {
            return Err(BusError::Empty { bus, name, base });
        };
        let (Some(last), Some(_)) = (base.checked_add(most), first_offset.checked_add(most)) else {
            return Err(BusError::Wraps { bus, name, base, len });
        };
        // Slots are disjoint, so the last one that begins at or below `last` is the only one that can reach `base`.
        let below = self.slots.range(..=last).next_back();
        let below = below.map(|(&base, slot)| {
            let len = slot.len;
            (Span { base, len }, slot)
        });
        match below.filter(|(span, _)| span.last() >= base) {
            Some((other_range, slot)) => {
                Err(BusError::Overlap { bus, name, range: Span { base, len }, other: slot.name.clone(), other_range })
            }
            None => Ok(()),
        }
    }

    fn find(&self, addr: u64) -> Option<Hit<'_>> {
        let (&base, slot) = self.slots.range(..=addr).next_back()?;
        let at = addr - base;
        let room = slot.len.checked_sub(at).filter(|&room| room > 0)?;
        Some(Hit { slot, offset: slot.first_offset + at, room })
    }

    #[cold]
    fn count_unmapped(&self, what: &str, addr: u64, len: usize) {
        let before = self.unmapped.fetch_add(1, Ordering::Relaxed);
        if before < LOGGED_UNMAPPED {
            log::debug!("Unmapped {} {what} of {len} bytes at {addr:#x}", self.name);
        }
        if before + 1 == LOGGED_UNMAPPED {
            log::debug!("Further unmapped {} accesses are only counted", self.name);
        }
    }
}

/// The slot behind an address.
struct Hit<'a> {
    slot: &'a Slot,
    /// The device's offset of the address.
    offset: u64,
    /// Bytes from the address to the slot's end, at least one.
    room: u64,
}

impl Hit<'_> {
    /// The device. One that panicked under the lock stays usable: its state is the guest's problem alone.
    fn device(&self) -> MutexGuard<'_, dyn BusDevice + 'static> {
        self.slot.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clip(&self, len: usize) -> usize {
        usize::try_from(self.room).map_or(len, |room| room.min(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every byte with the low byte of its offset and remembers what was written.
    #[derive(Default)]
    struct Probe {
        writes: Vec<(u64, Vec<u8>)>,
    }

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            for (at, byte) in (offset..).zip(data) {
                *byte = at as u8;
            }
        }

        fn write(&mut self, offset: u64, data: &[u8]) {
            self.writes.push((offset, data.to_vec()));
        }
    }

    fn probe() -> Arc<Mutex<Probe>> {
        Arc::default()
    }

    fn read<const N: usize>(bus: &Bus, addr: u64) -> [u8; N] {
        let mut data = [0x55; N];
        bus.read(addr, &mut data);
        data
    }

    #[test]
    fn a_device_sees_offsets_from_its_own_base() {
        let mut bus = Bus::new("port");
        let device = probe();
        bus.insert("com1", device.clone(), 0x3f8, 8).unwrap();
        bus.insert("alias", device.clone(), 0x2f8, 8).unwrap();
        bus.insert_part("part", device.clone(), 0x64, 1, 4).unwrap();
        assert_eq!(read(&bus, 0x3fb), [3]);
        assert_eq!(read(&bus, 0x2f8), [0]);
        assert_eq!(read(&bus, 0x64), [4]);
        bus.write(0x3fe, &[1, 2]);
        assert_eq!(device.lock().unwrap().writes, [(6, vec![1, 2])]);
        assert_eq!(bus.unmapped(), 0);
        let placed: Vec<_> = bus.devices().collect();
        assert_eq!(placed, [("part", 0x64, 1), ("alias", 0x2f8, 8), ("com1", 0x3f8, 8)]);
    }

    #[test]
    fn unmapped_reads_are_ones_and_counted() {
        let mut bus = Bus::new("MMIO");
        assert_eq!(read(&bus, 0), [0xff; 4]);
        bus.insert("a", probe(), 0x1000, 0x10).unwrap();
        assert_eq!(read(&bus, 0xfff), [0xff; 4]);
        assert_eq!(read(&bus, 0x1010), [0xff; 8]);
        bus.write(u64::MAX, &[1, 2]);
        assert_eq!(bus.unmapped(), 4);
    }

    #[test]
    fn an_access_across_the_end_is_cut_there() {
        let mut bus = Bus::new("MMIO");
        let (first, second) = (probe(), probe());
        bus.insert("first", first.clone(), 0x1000, 0x10).unwrap();
        bus.insert("second", second.clone(), 0x1010, 0x10).unwrap();
        assert_eq!(read(&bus, 0x100e), [0x0e, 0x0f, 0xff, 0xff]);
        bus.write(0x100f, &[1, 2, 3, 4]);
        assert_eq!(first.lock().unwrap().writes, [(0xf, vec![1])]);
        assert_eq!(second.lock().unwrap().writes, []);
        assert_eq!(bus.unmapped(), 2);
    }

    #[test]
    fn the_last_byte_of_the_address_space_can_be_mapped() {
        let mut bus = Bus::new("MMIO");
        bus.insert("top", probe(), u64::MAX, 1).unwrap();
        assert_eq!(read(&bus, u64::MAX), [0, 0xff]);
    }

    #[test]
    fn an_overlap_names_both_devices() {
        let mut bus = Bus::new("port");
        bus.insert("com1", probe(), 0x3f8, 8).unwrap();
        for (base, len) in [(0x3f8, 8), (0x3ff, 1), (0x3f0, 9), (0x3fa, 2), (0, 0x1000)] {
            let error = bus.insert("rtc", probe(), base, len).unwrap_err();
            let end = base + len;
            assert_eq!(error.to_string(), format!("port range {base:#x}-{end:#x} of rtc overlaps 0x3f8-0x400 of com1"));
        }
        bus.insert("before", probe(), 0x3f0, 8).unwrap();
        bus.insert("after", probe(), 0x400, 1).unwrap();
    }

    #[test]
    fn empty_and_wrapping_ranges_are_refused() {
        let mut bus = Bus::new("MMIO");
        let insert = |bus: &mut Bus, base, len, offset| {
            let error = bus.insert_part("rtc", probe(), base, len, offset);
            error.unwrap_err().to_string()
        };
        assert_eq!(insert(&mut bus, 0x10, 0, 0), "MMIO range of rtc at 0x10 is empty");
        let wraps = "MMIO range of rtc at 0xffffffffffffffff with 0x2 bytes does not fit 64 bits";
        assert_eq!(insert(&mut bus, u64::MAX, 2, 0), wraps);
        assert!(insert(&mut bus, 0, 2, u64::MAX).contains("does not fit"));
        assert_eq!(bus.devices().count(), 0);
    }

    #[test]
    fn a_bus_is_shared_by_threads() {
        fn shared<T: Send + Sync>(_: &T) {}
        shared(&Bus::new("MMIO"));
    }
}
