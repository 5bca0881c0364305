//! I/O APIC for KVM's split irqchip, where the local APICs are KVM's and this one is the monitor's.
//!
//! Source: Intel 82093AA datasheet, chapter 3; version and EOI register: Intel ICH9 datasheet, section 13.5; message
//! format: Intel SDM volume 3, section 11.11.
//!
//! | offset | register |
//! | --- | --- |
//! | 0x00 | IOREGSEL: index of the register behind IOWIN, in its first byte |
//! | 0x10 | IOWIN: 32-bit accesses only; others read 0 and are ignored |
//! | 0x40 | EOI: the vector in its first byte, write only |
//!
//! | index | register |
//! | --- | --- |
//! | 0 | ID, bits 24-27 |
//! | 1 | version 0x20, and 23 as the last pin; read only |
//! | 2 | arbitration ID: the ID, read only |
//! | 0x10 + 2n | redirection entry of pin n, low half; delivery status (bit 12) and remote IRR (bit 14) are read only |
//! | 0x11 + 2n | its high half, the destination in bits 24-31 |
//!
//! No interrupt passes through this device. A device's irqfd goes straight to KVM, which sends the message that the
//! pin's redirection entry stands for; an [`MsiRouter`] is told each time that message changes. So an interrupt is
//! always an edge: one that comes while its pin is masked is lost (drivers look at their device after unmasking), and
//! nothing sets remote IRR, whatever trigger mode the guest chose.

use crate::bus::BusDevice;
use crate::interrupt::EndOfInterrupt;

/// Pins, as on every PC.
pub const PINS: u8 = 24;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const EOI: u64 = 0x40;

const INDEX_ID: u8 = 0;
const INDEX_VERSION: u8 = 1;
const INDEX_ARBITRATION: u8 = 2;
const INDEX_ENTRIES: u8 = 0x10;

/// From this version on there is an EOI register, which spares Linux the masking and unmasking that replaces it.
const VERSION: u32 = 0x20;
const ID_SHIFT: u32 = 24;
const ID_MASK: u32 = 0xf << ID_SHIFT;

const VECTOR: u64 = 0xff;
const DELIVERY_MODE: u64 = 7 << 8;
const LOGICAL: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
const DESTINATION_SHIFT: u32 = 56;
/// Vector to mask, and destination: the rest is reserved and reads 0.
const IMPLEMENTED: u64 = 0xff << DESTINATION_SHIFT | 0x1_ffff;

const MSI_BASE: u64 = 0xfee0_0000;
const MSI_DESTINATION_SHIFT: u32 = 12;
const MSI_LOGICAL: u64 = 1 << 2;
const MSI_ASSERT: u32 = 1 << 14;
const MSI_LEVEL: u32 = 1 << 15;

/// A message-signalled interrupt: what to write where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Address of the write, in the local APICs' range.
    pub address: u64,
    /// Value that is written.
    pub data: u32,
}

/// Connects the pins to the local APICs.
pub trait MsiRouter: Send {
    /// From now on an edge on `pin` (0 to 23) sends `msi`, or nothing if the pin is masked. Called when that changes,
    /// with the I/O APIC's lock held. At the start every pin is masked.
    fn route(&mut self, pin: u8, msi: Option<Msi>);
}

/// The I/O APIC.
pub struct IoApic {
    select: u8,
    id: u32,
    entries: [u64; PINS as usize],
    router: Box<dyn MsiRouter>,
}

impl IoApic {
    /// Length of the register window in bytes.
    pub const LEN: u64 = 0x1000;

    /// An I/O APIC with the ID `id` (0 to 15) and all pins masked.
    pub fn new(id: u8, router: Box<dyn MsiRouter>) -> Self {
        Self { select: 0, id: u32::from(id) << ID_SHIFT & ID_MASK, entries: [MASKED; PINS as usize], router }
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            INDEX_ID | INDEX_ARBITRATION => self.id,
            INDEX_VERSION => u32::from(PINS - 1) << 16 | VERSION,
            index => entry_half(index).map_or(0, |(pin, shift)| {
                let entry = self.entries.get(usize::from(pin));
                entry.map_or(0, |entry| (entry >> shift) as u32)
            }),
        }
    }

    fn write_selected(&mut self, value: u32) {
        if self.select == INDEX_ID {
            self.id = value & ID_MASK;
        } else if let Some((pin, shift)) = entry_half(self.select) {
            self.write_entry(pin, shift, value);
        }
    }

    fn write_entry(&mut self, pin: u8, shift: u32, value: u32) {
        let Some(entry) = self.entries.get_mut(usize::from(pin)) else {
            return;
        };
        let before = message(*entry);
        let writable = IMPLEMENTED & !READ_ONLY & (0xffff_ffff << shift);
        *entry = *entry & !writable | u64::from(value) << shift & writable;
        let after = message(*entry);
        if before != after {
            self.router.route(pin, after);
        }
    }
}

impl EndOfInterrupt for IoApic {
    /// Clears remote IRR of the level-triggered entries that have the vector.
    fn end_of_interrupt(&mut self, vector: u8) {
        for entry in &mut self.entries {
            if *entry & VECTOR == u64::from(vector) && *entry & LEVEL != 0 {
                *entry &= !REMOTE_IRR;
            }
        }
    }
}

impl BusDevice for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            IOREGSEL => {
                data.fill(0);
                data.iter_mut().take(1).for_each(|byte| *byte = self.select);
            }
            IOWIN if data.len() == 4 => data.copy_from_slice(&self.read_selected().to_le_bytes()),
            _ => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (IOREGSEL, &[index, ..]) => self.select = index,
            (IOWIN, &[a, b, c, d]) => self.write_selected(u32::from_le_bytes([a, b, c, d])),
            (EOI, &[vector, ..]) => self.end_of_interrupt(vector),
            _ => {}
        }
    }
}

/// The pin, and the shift of the half of its redirection entry, that `index` selects. The pin may not exist.
fn entry_half(index: u8) -> Option<(u8, u32)> {
    let half = index.checked_sub(INDEX_ENTRIES)?;
    Some((half / 2, u32::from(half % 2) * 32))
}

/// The message that a redirection entry stands for.
fn message(entry: u64) -> Option<Msi> {
    if entry & MASKED != 0 {
        return None;
    }
    let destination = entry >> DESTINATION_SHIFT << MSI_DESTINATION_SHIFT;
    let logical = if entry & LOGICAL == 0 { 0 } else { MSI_LOGICAL };
    let trigger = if entry & LEVEL == 0 { 0 } else { MSI_LEVEL | MSI_ASSERT };
    Some(Msi { address: MSI_BASE | destination | logical, data: (entry & (VECTOR | DELIVERY_MODE)) as u32 | trigger })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    type Routes = Arc<Mutex<Vec<(u8, Option<Msi>)>>>;

    struct Recorder(Routes);

    impl MsiRouter for Recorder {
        fn route(&mut self, pin: u8, msi: Option<Msi>) {
            self.0.lock().unwrap().push((pin, msi));
        }
    }

    fn ioapic() -> (IoApic, Routes) {
        let routes = Routes::default();
        let ioapic = IoApic::new(2, Box::new(Recorder(routes.clone())));
        (ioapic, routes)
    }

    fn get(ioapic: &mut IoApic, index: u8) -> u32 {
        ioapic.write(IOREGSEL, &u32::from(index).to_le_bytes());
        let mut data = [0; 4];
        ioapic.read(IOWIN, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(ioapic: &mut IoApic, index: u8, value: u32) {
        ioapic.write(IOREGSEL, &u32::from(index).to_le_bytes());
        ioapic.write(IOWIN, &value.to_le_bytes());
    }

    #[test]
    fn identifies_itself() {
        let (mut ioapic, _) = ioapic();
        assert_eq!(get(&mut ioapic, 0), 0x0200_0000);
        assert_eq!(get(&mut ioapic, 1), 0x0017_0020);
        set(&mut ioapic, 0, 0xffff_ffff);
        set(&mut ioapic, 1, 0);
        set(&mut ioapic, 2, 0);
        assert_eq!(get(&mut ioapic, 0), 0x0f00_0000);
        assert_eq!(get(&mut ioapic, 1), 0x0017_0020);
        assert_eq!(get(&mut ioapic, 2), 0x0f00_0000);
    }

    #[test]
    fn starts_masked_and_has_no_pin_24() {
        let (mut ioapic, routes) = ioapic();
        for pin in 0..24 {
            assert_eq!(get(&mut ioapic, 0x10 + 2 * pin), 0x1_0000);
        }
        for index in (3..0x10).chain(0x40..=0xff) {
            set(&mut ioapic, index, 0x31);
            assert_eq!(get(&mut ioapic, index), 0);
        }
        assert_eq!(*routes.lock().unwrap(), []);
    }

    #[test]
    fn a_route_changes_with_the_entry_and_only_then() {
        let (mut ioapic, routes) = ioapic();
        let taken = || std::mem::take(&mut *routes.lock().unwrap());
        let msi = |address, data| Some(Msi { address, data });
        // Linux's order: destination while masked, then the low half.
        set(&mut ioapic, 0x19, 0x0300_0000);
        assert_eq!(taken(), []);
        set(&mut ioapic, 0x18, 0x0000_0931);
        assert_eq!(taken(), [(4, msi(0xfee0_3004, 0x131))]);
        set(&mut ioapic, 0x18, 0x0000_0931);
        assert_eq!(taken(), []);
        set(&mut ioapic, 0x19, 0xff00_0000);
        assert_eq!(taken(), [(4, msi(0xfeef_f004, 0x131))]);
        set(&mut ioapic, 0x18, 0x0001_0931);
        assert_eq!(taken(), [(4, None)]);
        set(&mut ioapic, 0x3e, 0x0000_a022);
        assert_eq!(taken(), [(23, msi(0xfee0_0000, 0xc022))]);
    }

    #[test]
    fn an_end_of_interrupt_clears_remote_irr_of_its_vector() {
        let (mut ioapic, _) = ioapic();
        let pending = REMOTE_IRR | DELIVERY_STATUS;
        ioapic.entries[..3].copy_from_slice(&[pending | LEVEL | 0x31, pending | LEVEL | 0x32, pending | 0x31]);
        let low = |ioapic: &mut IoApic| [0x10, 0x12, 0x14].map(|index| get(ioapic, index));
        set(&mut ioapic, 0x10, 0x8031);
        assert_eq!(low(&mut ioapic), [0xd031, 0xd032, 0x5031]);
        ioapic.end_of_interrupt(0x31);
        assert_eq!(low(&mut ioapic), [0x9031, 0xd032, 0x5031]);
        ioapic.write(EOI, &0x32u32.to_le_bytes());
        assert_eq!(low(&mut ioapic), [0x9031, 0x9032, 0x5031]);
    }

    #[test]
    fn other_widths_of_the_window_do_nothing() {
        let (mut ioapic, routes) = ioapic();
        ioapic.write(IOREGSEL, &[0x10]);
        for len in [0, 1, 2, 3, 8] {
            ioapic.write(IOWIN, &vec![0x31; len]);
            let mut data = vec![0xff; len];
            ioapic.read(IOWIN, &mut data);
            assert_eq!(data, vec![0; len]);
        }
        assert_eq!(*routes.lock().unwrap(), []);
        let mut select = [0xff; 4];
        ioapic.read(IOREGSEL, &mut select);
        assert_eq!(select, [0x10, 0, 0, 0]);
    }
}
