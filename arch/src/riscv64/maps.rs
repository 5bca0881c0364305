//! The riscv64 layout. KVM gives a guest S-mode only: the boot ROM and the CLINT stay reserved, SBI stands in for both.

use std::ops::Range;

use crate::board::Board;
use crate::map::{Arch, Base, Kind, Layout, PAGE_SIZE, Row, RowName, Size, When};

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
    board: Board::RiscvVirt,
    rows: &[
        Row::fixed(RowName::BootRom, Kind::Reserved, 0x1000..0x2000),
        Row::fixed(RowName::Clint, Kind::Reserved, 0x200_0000..0x201_0000),
        Row::fixed(RowName::Plic, Kind::Mmio, 0xC00_0000..0x1000_0000),
        Row::fixed(RowName::Uart, Kind::Mmio, 0x1000_0000..0x1000_1000),
        Row::fixed(RowName::Virtio, Kind::Mmio, 0x1000_1000..0x1000_9000),
        Row::fixed(RowName::PcieEcam, Kind::Pci, 0x3000_0000..0x4000_0000),
        Row::fixed(RowName::PcieMmio, Kind::Pci, 0x4000_0000..RAM),
        Row::region(RowName::Ram, Kind::Ram, Base::At(RAM), Size::Ram { max: u64::MAX }),
        Row::region(RowName::Shm, Kind::Shm, Base::After { rows: &[RowName::Ram], floor: 0 }, Size::Shm).align(GIB),
        Row::fixed_claim(RowName::SbiReserved, RAM..RAM + SBI_SIZE).reserved(),
        // An Image's header holds the size of what it leaves to the SBI as its text_offset.
        Row::claim(RowName::Kernel, Base::At(RAM), Size::Kernel { lowest: RAM })
            .within(&[RowName::Ram])
            .when(When::Flat(false)),
        Row::claim(RowName::Kernel, Base::At(RAM + SBI_SIZE), Size::Kernel { lowest: RAM })
            .within(&[RowName::Ram])
            .when(When::Flat(true)),
        Row::claim(RowName::Initrd, Base::After { rows: &[RowName::Kernel], floor: RAM + SBI_SIZE }, Size::Initrd)
            .align(PAGE_SIZE)
            .within(&[RowName::Ram]),
    ],
    window_region: RowName::Virtio,
    window_size: PAGE_SIZE,
    window_irqs: &[WINDOW_IRQS],
    // As many harts as QEMU's virt machine lets the PLIC's contexts serve.
    max_vcpus: &[(When::Always, 512)],
};
