//! The x86-64 layouts.

use std::ops::Range;

use crate::board::Board;
use crate::map::{Arch, Base, Boot, Extent, Kind, Layout, MemoryMap, PAGE_SIZE, Row, RowName, Size, When};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Where memory above the 32-bit hole starts.
const HIGH_RAM: u64 = 4 * GIB;
/// A PC's legacy area, from the extended BIOS data area on: no usable memory below its end.
const LEGACY_AREA: Range<u64> = 0x9_FC00..0x10_0000;

/// Where a firmware image also appears below 1 MiB: its last 128 KiB, as on a PC, whose reset code jumps there.
const FIRMWARE_TAIL: u64 = 128 << 10;

const LINUX: When = When::Boot(&[Boot::Linux]);
const KERNEL: When = When::Boot(&[Boot::Linux, Boot::Pvh, Boot::Multiboot]);
const FIRMWARE: When = When::Boot(&[Boot::Firmware]);

/// Interrupts for virtio-mmio: ISA lines that no PC device here uses, then the IOAPIC's upper pins.
const WINDOW_IRQS: &[Range<u32>] = &[5..8, 10..16, 16..24];

/// As many as the layouts promise, below the 254 that local APIC ids of 8 bits leave (255 is the broadcast).
const MAX_VCPUS: &[(When, u32)] = &[(When::Always, 64)];

/// RAM to 3 GiB, a hole for PCI, one window for device registers, firmware below 4 GiB; the default.
pub static KRUN: Layout = Layout {
    name: "krun",
    arch: Arch::X86_64,
    board: Board::Pc,
    rows: &KRUN_ROWS,
    window_region: RowName::MmioWindow,
    window_size: PAGE_SIZE,
    window_irqs: WINDOW_IRQS,
    max_vcpus: MAX_VCPUS,
};

/// RAM to 3.25 GiB, then device windows, PCI configuration space and a reserved area with the PC's carve-outs.
pub static CROSVM: Layout = Layout {
    name: "crosvm",
    arch: Arch::X86_64,
    board: Board::Pc,
    rows: &CROSVM_ROWS,
    window_region: RowName::LowMmio,
    window_size: PAGE_SIZE,
    window_irqs: WINDOW_IRQS,
    max_vcpus: MAX_VCPUS,
};

/// The regions that may hold a kernel that names its own addresses.
const RAM: &[RowName] = &[RowName::LowRam, RowName::HighRam];

const KRUN_ROWS: [Row; 6 + COMMON_CLAIMS.len() + 3] = join(
    [
        Row::region(RowName::LowRam, Kind::Ram, Base::At(0), Size::Ram { max: 0xC000_0000 }),
        Row::fixed(RowName::PciHole, Kind::Pci, 0xC000_0000..0xFEC0_0000),
        Row::fixed(RowName::MmioWindow, Kind::Mmio, 0xFEC0_0000..0xFF00_0000),
        Row::fixed(RowName::Firmware, Kind::Firmware, 0xFF00_0000..HIGH_RAM),
        Row::region(RowName::HighRam, Kind::Ram, Base::At(HIGH_RAM), Size::Ram { max: u64::MAX }),
        Row::region(RowName::Shm, Kind::Shm, Base::After { rows: &[RowName::HighRam], floor: HIGH_RAM }, Size::Shm)
            .align(GIB),
    ],
    [
        Row::fixed_claim(RowName::BootStack, 0x8000..0x9000).when(LINUX),
        Row::claim(RowName::Kernel, Base::At(MIB), Size::Kernel { lowest: MIB }).within(RAM),
        Row::claim(RowName::Initrd, Base::TopOf { row: RowName::LowRam, above: &[RowName::Kernel] }, Size::Initrd)
            .align(PAGE_SIZE)
            .within(&[RowName::LowRam]),
    ],
);

const CROSVM_ROWS: [Row; 8 + COMMON_CLAIMS.len() + 2] = join(
    [
        Row::region(RowName::LowRam, Kind::Ram, Base::At(0), Size::Ram { max: 0xD000_0000 }),
        Row::fixed(RowName::LowMmio, Kind::Mmio, 0xD000_0000..0xF400_0000),
        Row::fixed(RowName::PcieEcam, Kind::Pci, 0xF400_0000..0xF800_0000),
        Row::fixed(RowName::Reserved, Kind::Reserved, 0xF800_0000..0xFF00_0000),
        Row::fixed(RowName::Firmware, Kind::Firmware, 0xFF00_0000..HIGH_RAM),
        Row::region(RowName::HighRam, Kind::Ram, Base::At(HIGH_RAM), Size::Ram { max: u64::MAX }),
        Row::region(RowName::Shm, Kind::Shm, Base::After { rows: &[RowName::HighRam], floor: HIGH_RAM }, Size::Shm)
            .align(GIB),
        Row::region(
            RowName::HighMmio,
            Kind::Mmio,
            Base::After { rows: &[RowName::HighRam, RowName::Shm], floor: HIGH_RAM },
            Size::ToLimit,
        )
        .align(GIB),
    ],
    [
        Row::claim(RowName::Kernel, Base::At(2 * MIB), Size::Kernel { lowest: MIB }).within(RAM),
        Row::claim(RowName::Initrd, Base::After { rows: &[RowName::Kernel], floor: 2 * MIB }, Size::Initrd)
            .align(PAGE_SIZE)
            .within(&[RowName::LowRam]),
    ],
);

/// Claims of both layouts: chip carve-outs, the firmware's image, and what lies in low memory before a kernel runs.
const COMMON_CLAIMS: [Row; 19] = [
    Row::fixed_claim(RowName::IoApic, 0xFEC0_0000..0xFEC0_1000),
    Row::fixed_claim(RowName::Hpet, 0xFED0_0000..0xFED0_1000),
    // The LAPIC's page and the range that message-signalled interrupts are written to.
    Row::fixed_claim(RowName::Lapic, 0xFEE0_0000..0xFEF0_0000),
    // KVM_SET_IDENTITY_MAP_ADDR and KVM_SET_TSS_ADDR: Intel hosts without unrestricted guest need them.
    Row::fixed_claim(RowName::IdentityMap, 0xFEFF_C000..0xFEFF_D000),
    Row::fixed_claim(RowName::Tss, 0xFEFF_D000..0xFF00_0000),
    Row::claim(RowName::FirmwareImage, Base::EndingAt(HIGH_RAM), Size::Firmware)
        .within(&[RowName::Firmware])
        .when(FIRMWARE),
    Row::claim(RowName::FirmwareLow, Base::EndingAt(MIB), Size::FirmwareTail { max: FIRMWARE_TAIL }).when(FIRMWARE),
    Row::fixed_claim(RowName::Gdt, 0x500..0x520).when(LINUX),
    Row::fixed_claim(RowName::Idt, 0x520..0x528).when(LINUX),
    Row::fixed_claim(RowName::ZeroPage, 0x7000..0x8000).when(LINUX),
    Row::fixed_claim(RowName::Pml4, 0x9000..0xA000).when(LINUX),
    Row::fixed_claim(RowName::Pdpte, 0xA000..0xB000).when(LINUX),
    Row::fixed_claim(RowName::Pde, 0xB000..0xC000).when(LINUX),
    Row::fixed_claim(RowName::Cmdline, 0x2_0000..0x2_0800).when(LINUX),
    Row::fixed_claim(RowName::SetupData, 0x2_0800..0x8_0000).when(LINUX),
    Row::fixed_claim(RowName::BootInfo, 0x8_0000..0x9_0000).when(KERNEL),
    Row::fixed_claim(RowName::Ebda, LEGACY_AREA.start..0xA_0000).when(KERNEL).reserved(),
    Row::fixed_claim(RowName::Acpi, 0xE_0000..0xF_0000).when(KERNEL).reserved(),
    Row::fixed_claim(RowName::MpTable, 0xF_0000..0x10_0000).when(KERNEL).reserved(),
];

/// A table of the regions, the common claims and the layout's own.
const fn join<const R: usize, const C: usize, const N: usize>(regions: [Row; R], claims: [Row; C]) -> [Row; N] {
    assert!(R + COMMON_CLAIMS.len() + C == N);
    let mut rows = [COMMON_CLAIMS[0]; N];
    let mut at = 0;
    while at < N {
        rows[at] = if at < R {
            regions[at]
        } else if at < R + COMMON_CLAIMS.len() {
            COMMON_CLAIMS[at - R]
        } else {
            claims[at - R - COMMON_CLAIMS.len()]
        };
        at += 1;
    }
    rows
}

/// An entry of the e820 memory map: a range, and whether the guest may use it as RAM (type 1) or not (type 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// First address.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// Type 1 if set, type 2 (reserved) otherwise.
    pub usable: bool,
}

/// The memory map that a guest is told, sorted: all RAM but a PC's legacy area, and the reserved claims.
pub fn e820(map: &MemoryMap) -> Vec<E820Entry> {
    let usable = |start, end| E820Entry { start, end, usable: true };
    let mut entries: Vec<_> = map
        .ram()
        .flat_map(|ram| {
            [usable(ram.start, ram.end.min(LEGACY_AREA.start)), usable(ram.start.max(LEGACY_AREA.end), ram.end)]
        })
        .filter(|entry| entry.start < entry.end)
        .collect();
    let reserved = map.claims.iter().filter(|claim| claim.reserved);
    entries.extend(reserved.map(|&Extent { start, end, .. }| E820Entry { start, end, usable: false }));
    entries.sort_by_key(|entry| entry.start);
    entries
}
