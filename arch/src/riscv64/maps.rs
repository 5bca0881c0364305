//! The riscv64 layout. KVM gives a guest S-mode only: the boot ROM and the CLINT stay reserved, SBI stands in for both.

use std::ops::Range;

use crate::map::{Arch, Base, Kind, Layout, PAGE_SIZE, Row, Size, When};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const RAM: u64 = 0x8000_0000;
/// Where an M-mode SBI firmware would be; kernels expect to be loaded after it.
const SBI_SIZE: u64 = 2 * MIB;

/// QEMU's virt machine wires its eight transports to PLIC sources 1 to 8.
const WINDOW_IRQS: Range<u32> = 1..9;

/// QEMU's `virt` machine, without PCI.
pub static VIRT: Layout = Layout {
    name: "virt",
    arch: Arch::Riscv64,
    rows: &[
        Row::fixed("boot_rom", Kind::Reserved, 0x1000..0x2000),
        Row::fixed("clint", Kind::Reserved, 0x200_0000..0x201_0000),
        Row::fixed("plic", Kind::Mmio, 0xC00_0000..0x1000_0000),
        Row::fixed("uart", Kind::Mmio, 0x1000_0000..0x1000_1000),
        Row::fixed("virtio", Kind::Mmio, 0x1000_1000..0x1000_9000),
        Row::fixed("pcie_ecam", Kind::Pci, 0x3000_0000..0x4000_0000),
        Row::fixed("pcie_mmio", Kind::Pci, 0x4000_0000..RAM),
        Row::region("ram", Kind::Ram, Base::At(RAM), Size::Ram { max: u64::MAX }),
        Row::region("shm", Kind::Shm, Base::After { rows: &["ram"], floor: 0 }, Size::Shm).align(GIB),
        Row::fixed_claim("sbi_reserved", RAM..RAM + SBI_SIZE).reserved(),
        // An Image's header holds the size of what it leaves to the SBI as its text_offset.
        Row::claim("kernel", Base::At(RAM), Size::Kernel { lowest: RAM }).within(&["ram"]).when(When::Flat(false)),
        Row::claim("kernel", Base::At(RAM + SBI_SIZE), Size::Kernel { lowest: RAM })
            .within(&["ram"])
            .when(When::Flat(true)),
        Row::claim("initrd", Base::After { rows: &["kernel"], floor: RAM + SBI_SIZE }, Size::Initrd)
            .align(PAGE_SIZE)
            .within(&["ram"]),
    ],
    window_region: "virtio",
    window_size: PAGE_SIZE,
    window_irqs: &[WINDOW_IRQS],
    // As many harts as QEMU's virt machine lets the PLIC's contexts serve.
    max_vcpus: &[(When::Always, 512)],
};
