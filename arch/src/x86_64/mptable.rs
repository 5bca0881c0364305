//! The MP table of Intel's `MultiProcessor` Specification, version 1.4 (chapter 4), for guests without ACPI.
//!
//! IRQ n is wired to IOAPIC pin n, for all 24 pins and timer included: that is KVM's default routing with its own
//! interrupt controllers, and without them the monitor's IOAPIC has no timer that would want pin 2.

use std::iter;

/// Pins of the IOAPIC, KVM's (`KVM_IOAPIC_NUM_PINS`) and the monitor's alike.
const IOAPIC_PINS: u8 = 24;

/// The APIC ID of the IOAPIC in a machine whose processors have the IDs from 0 to `cpus` - 1: the first free one,
/// since the specification wants IDs unique among local and I/O APICs.
pub const fn ioapic_id(cpus: u8) -> u8 {
    cpus
}

/// The floating pointer, at `base`, followed by the configuration table; `base` must be a multiple of 16.
///
/// `cpus` is 1 to 64, `lapic` and `ioapic` are the guest physical addresses of the controllers' registers. The size
/// in bytes is 284 + 20 per processor.
pub fn build(base: u32, cpus: u8, lapic: u32, ioapic: u32) -> Vec<u8> {
    let mut bytes = floating_pointer(base + FLOATING_POINTER_SIZE).to_vec();
    bytes.extend(configuration_table(cpus, lapic, ioapic));
    bytes
}

/// The floating pointer (section 4.1) to a configuration table at `table`, to be placed on a 16-byte boundary in the
/// EBDA or the BIOS area.
pub fn floating_pointer(table: u32) -> [u8; FLOATING_POINTER_SIZE as usize] {
    let mut bytes = [0; FLOATING_POINTER_SIZE as usize];
    bytes[..4].copy_from_slice(b"_MP_");
    bytes[4..8].copy_from_slice(&table.to_le_bytes());
    // The length, in units of 16 bytes.
    bytes[8] = 1;
    bytes[9] = SPECIFICATION_1_4;
    // Feature bytes stay zero: a table is present, and interrupts start in virtual-wire mode, without an IMCR.
    bytes[10] = checksum(&bytes);
    bytes
}

const FLOATING_POINTER_SIZE: u32 = 16;
/// Bytes of the configuration table before its entries (section 4.2).
const HEADER_SIZE: usize = 44;
/// The version of the specification, as both structures tell it.
const SPECIFICATION_1_4: u8 = 4;

/// Entry types, section 4.3.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Interrupt types, section 4.3.4.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXTINT: u8 = 3;

/// The only bus.
const ISA: u8 = 0;
/// What KVM's local APIC (`APIC_VERSION`) and IOAPIC (`IOAPIC_VERSION_ID`) report.
const LAPIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
/// Processor flags: enabled, and for the first one: bootstrap processor.
const ENABLED: u8 = 1 << 0;
const BOOTSTRAP: u8 = 1 << 1;
/// Family 6, which stands for every 64-bit processor; guests read the truth from CPUID.
const CPU_SIGNATURE: u32 = 0x600;
/// An FPU and a local APIC on the chip (CPUID leaf 1, EDX).
const CPU_FEATURES: u32 = 1 << 0 | 1 << 9;
/// Usable (IOAPIC flags).
const USABLE: u8 = 1;
/// Edge-triggered (bits 3:2 = 1) and active high (bits 1:0 = 1): the ISA default, written out because pins from 16 up
/// belong to no ISA line.
const EDGE_HIGH: u16 = 0b0101;
/// As the bus defines it.
const CONFORMING: u16 = 0;
/// The destination ID of an interrupt that goes to every local APIC.
const ALL_LAPICS: u8 = 0xff;

fn configuration_table(cpus: u8, lapic: u32, ioapic: u32) -> Vec<u8> {
    let entries: Vec<Vec<u8>> = (0..cpus)
        .map(processor)
        .chain(iter::once(isa_bus()))
        .chain(iter::once(ioapic_entry(ioapic_id(cpus), ioapic)))
        .chain((0..IOAPIC_PINS).map(|pin| interrupt(IO_INTERRUPT, INT, EDGE_HIGH, pin, (ioapic_id(cpus), pin))))
        // Without a PIC nothing ever drives this line; it costs such a machine nothing.
        .chain(iter::once(interrupt(LOCAL_INTERRUPT, EXTINT, CONFORMING, 0, (0, 0))))
        .chain(iter::once(interrupt(LOCAL_INTERRUPT, NMI, CONFORMING, 0, (ALL_LAPICS, 1))))
        .collect();
    let length = HEADER_SIZE + entries.iter().map(Vec::len).sum::<usize>();

    let mut table = Vec::with_capacity(length);
    table.extend(b"PCMP");
    table.extend((length as u16).to_le_bytes());
    table.extend([SPECIFICATION_1_4, 0]);
    table.extend(b"CARPEL  microVM     ");
    // No OEM table: address and size.
    table.extend([0; 6]);
    table.extend((entries.len() as u16).to_le_bytes());
    table.extend(lapic.to_le_bytes());
    // No extended table: length and checksum, then a reserved byte.
    table.extend([0; 4]);
    table.extend(entries.into_iter().flatten());
    table[7] = checksum(&table);
    table
}

fn processor(id: u8) -> Vec<u8> {
    let flags = if id == 0 { ENABLED | BOOTSTRAP } else { ENABLED };
    let mut entry = vec![PROCESSOR, id, LAPIC_VERSION, flags];
    entry.extend(CPU_SIGNATURE.to_le_bytes());
    entry.extend(CPU_FEATURES.to_le_bytes());
    entry.extend([0; 8]);
    entry
}

fn isa_bus() -> Vec<u8> {
    let mut entry = vec![BUS, ISA];
    entry.extend(b"ISA   ");
    entry
}

fn ioapic_entry(id: u8, address: u32) -> Vec<u8> {
    let mut entry = vec![IOAPIC, id, IOAPIC_VERSION, USABLE];
    entry.extend(address.to_le_bytes());
    entry
}

/// An interrupt of ISA line `irq` that arrives at `destination`: an APIC's ID and its pin or LINT number.
fn interrupt(entry_type: u8, kind: u8, flags: u16, irq: u8, destination: (u8, u8)) -> Vec<u8> {
    let [low, high] = flags.to_le_bytes();
    vec![entry_type, kind, low, high, ISA, irq, destination.0, destination.1]
}

/// The byte that makes all bytes, itself counted as zero before, add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAPIC_AT: u32 = 0xfee0_0000;
    const IOAPIC_AT: u32 = 0xfec0_0000;

    fn word(bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
    }

    fn dword(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// The entries of a table, found as a kernel finds them: by their types' sizes and the header's count and length.
    fn entries(table: &[u8]) -> Vec<&[u8]> {
        let mut rest = &table[HEADER_SIZE..usize::from(word(table, 4))];
        let mut entries = Vec::new();
        while let Some(&entry_type) = rest.first() {
            let (entry, after) = rest.split_at(if entry_type == PROCESSOR { 20 } else { 8 });
            entries.push(entry);
            rest = after;
        }
        assert_eq!(entries.len(), usize::from(word(table, 34)));
        entries
    }

    #[test]
    fn sixty_four_processors_take_1564_bytes() {
        assert_eq!(build(0xf_0000, 64, LAPIC_AT, IOAPIC_AT).len(), 1564);
    }

    #[test]
    fn the_pointer_leads_to_a_table_and_both_add_up_to_zero() {
        for cpus in [1, 2, 64] {
            let bytes = build(0xf_0000, cpus, LAPIC_AT, IOAPIC_AT);
            let (pointer, table) = bytes.split_at(16);
            assert_eq!((&pointer[..4], dword(pointer, 4)), (&b"_MP_"[..], 0xf_0010));
            assert_eq!((&table[..4], usize::from(word(table, 4))), (&b"PCMP"[..], table.len()));
            assert_eq!(dword(table, 36), LAPIC_AT);
            for part in [pointer, table] {
                assert_eq!(part.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            }
        }
    }

    #[test]
    fn one_processor_boots_and_apic_ids_are_unique() {
        let bytes = build(0xf_0000, 4, LAPIC_AT, IOAPIC_AT);
        let entries = entries(&bytes[16..]);
        let processors: Vec<_> = entries.iter().filter(|entry| entry[0] == PROCESSOR).map(|e| (e[1], e[3])).collect();
        assert_eq!(processors, [(0, 3), (1, 1), (2, 1), (3, 1)]);
        let ioapics: Vec<_> = entries.iter().filter(|e| e[0] == IOAPIC).map(|e| (e[1], e[3], dword(e, 4))).collect();
        assert_eq!(ioapics, [(4, 1, IOAPIC_AT)]);
    }

    #[test]
    fn every_pin_has_its_edge_triggered_active_high_line() {
        let bytes = build(0xf_0000, 2, LAPIC_AT, IOAPIC_AT);
        let entries = entries(&bytes[16..]);
        let pins: Vec<_> = entries.iter().filter(|entry| entry[0] == IO_INTERRUPT).copied().collect();
        let expected: Vec<[u8; 8]> = (0..24).map(|pin| [3, 0, 5, 0, 0, pin, 2, pin]).collect();
        assert_eq!(pins, expected);
        let local: Vec<_> = entries.iter().filter(|entry| entry[0] == LOCAL_INTERRUPT).copied().collect();
        assert_eq!(local, [[4, 3, 0, 0, 0, 0, 0, 0], [4, 1, 0, 0, 0, 0, 0xff, 1]]);
    }
}
