//! The aarch64 layouts. Addresses are intermediate physical addresses.

use std::ops::Range;

use crate::board::Board;
use crate::map::{Arch, Base, Boot, Gic, Kind, Layout, PAGE_SIZE, Row, RowName, Size, When};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const KERNEL: When = When::Boot(&[Boot::Linux]);
const FIRMWARE: When = When::Boot(&[Boot::Firmware]);

/// A redistributor's two frames, `RD_base` and `SGI_base`, of 64 KiB each (Arm IHI 0069, "Redistributor frames").
const REDISTRIBUTOR_SIZE: u64 = 128 * KIB;

const RAM: &[RowName] = &[RowName::Ram];

const CROSVM_RAM: u64 = 0x8000_0000;
const CROSVM_GIC_DIST: u64 = 0x3FFF_0000;
/// The first four are the serial ports' and the RTC's; 64 SPIs in all, a multiple of the GIC's granularity of 32.
const CROSVM_WINDOW_SPIS: Range<u32> = 4..64;

/// Devices in the lowest megabytes, the GIC below 1 GiB, RAM from 2 GiB; the default.
pub static CROSVM: Layout = Layout {
    name: "crosvm",
    arch: Arch::Aarch64,
    board: Board::ArmCrosvm,
    rows: &[
        Row::fixed(RowName::Serial3, Kind::Mmio, 0x2E8..0x2F0),
        Row::fixed(RowName::Serial1, Kind::Mmio, 0x2F8..0x300),
        Row::fixed(RowName::Serial2, Kind::Mmio, 0x3E8..0x3F0),
        Row::fixed(RowName::Serial0, Kind::Mmio, 0x3F8..0x400),
        Row::fixed(RowName::Rtc, Kind::Mmio, 0x2000..0x3000),
        Row::fixed(RowName::Vmwdt, Kind::Reserved, 0x3000..0x4000),
        Row::fixed(RowName::PciCam, Kind::Pci, 0x1_0000..0x2_0000),
        Row::fixed(RowName::Virtfreq, Kind::Reserved, 0x104_0000..0x105_0000),
        Row::fixed(RowName::Pvtime, Kind::Reserved, 0x1FF_0000..0x200_0000),
        Row::fixed(RowName::Mmio, Kind::Mmio, 0x200_0000..0x400_0000),
        Row::fixed(RowName::GicCpu, Kind::Mmio, 0x3FFD_0000..CROSVM_GIC_DIST).when(When::Gic(Gic::V2)),
        Row::region(RowName::GicRedist, Kind::Mmio, Base::EndingAt(CROSVM_GIC_DIST), Size::PerVcpu(REDISTRIBUTOR_SIZE))
            .when(When::Gic(Gic::V3)),
        Row::fixed(RowName::GicDist, Kind::Mmio, CROSVM_GIC_DIST..0x4000_0000),
        Row::fixed(RowName::PvmFirmware, Kind::Reserved, 0x7FC0_0000..CROSVM_RAM),
        Row::region(RowName::Ram, Kind::Ram, Base::At(CROSVM_RAM), Size::Ram { max: u64::MAX }),
        Row::region(
            RowName::PlatformMmio,
            Kind::Mmio,
            Base::After { rows: &[RowName::Ram], floor: 0 },
            Size::Bytes(8 * MIB),
        ),
        Row::region(RowName::Shm, Kind::Shm, Base::After { rows: &[RowName::PlatformMmio], floor: 0 }, Size::Shm)
            .align(GIB),
        Row::region(
            RowName::HighMmio,
            Kind::Mmio,
            Base::After { rows: &[RowName::PlatformMmio, RowName::Shm], floor: 0 },
            Size::ToLimit,
        ),
        Row::claim(RowName::Kernel, Base::At(CROSVM_RAM), Size::Kernel { lowest: CROSVM_RAM }).within(RAM),
        Row::claim(RowName::Initrd, Base::After { rows: &[RowName::Kernel], floor: CROSVM_RAM }, Size::Initrd)
            .align(PAGE_SIZE)
            .within(RAM),
        Row::claim(
            RowName::Fdt,
            Base::TopOf { row: RowName::Ram, above: &[RowName::Kernel, RowName::Initrd] },
            Size::Bytes(2 * MIB),
        )
        .align(2 * MIB)
        .within(RAM)
        .when(KERNEL),
        Row::fixed_claim(RowName::Fdt, CROSVM_RAM..CROSVM_RAM + 2 * MIB).when(FIRMWARE),
        Row::claim(RowName::Firmware, Base::At(CROSVM_RAM + 2 * MIB), Size::Firmware).within(RAM).when(FIRMWARE),
    ],
    window_region: RowName::Mmio,
    window_size: PAGE_SIZE,
    window_irqs: &[CROSVM_WINDOW_SPIS],
    // Linux's VGIC_V3_MAX_CPUS; the redistributors of so many still end well above `mmio`.
    max_vcpus: &[GICV2_VCPUS, (When::Always, 512)],
};

/// The architecture's limit of `GICv2`: CPU targets are a byte, one bit each (Arm IHI 0048, `GICD_ITARGETSR`).
const GICV2_VCPUS: (When, u32) = (When::Gic(Gic::V2), 8);

const VIRT_RAM: u64 = 0x4000_0000;
/// What is set aside for the device tree.
const VIRT_FDT: u64 = 512 * KIB;
/// Where what a flat image is handed lies: far enough above it, for its file does not tell its bss and stacks (QEMU,
/// hw/arm/boot.c, `arm_setup_direct_kernel_boot`).
const VIRT_BEHIND_FLAT: Base =
    Base::AfterHalf { rows: &[RowName::Kernel, RowName::Initrd], of: RowName::Ram, most: 128 * MIB };
/// QEMU's second flash has 64 MiB; edk2 uses 768 KiB of it for its variables, U-Boot 256 KiB for its environment.
const VIRT_VARIABLES: Range<u64> = 0x400_0000..0x410_0000;
const VIRT_GICR: Range<u64> = 0x80A_0000..0x900_0000;
/// One for each of the 32 windows.
const VIRT_WINDOW_SPIS: Range<u32> = 16..48;

/// QEMU's `virt` machine, without PCI.
pub static VIRT: Layout = Layout {
    name: "virt",
    arch: Arch::Aarch64,
    board: Board::ArmVirt,
    rows: &[
        Row::fixed(RowName::Flash, Kind::Firmware, 0..0x400_0000),
        Row::fixed(RowName::FlashVariables, Kind::Firmware, VIRT_VARIABLES).when(FIRMWARE),
        Row::fixed(RowName::Gicd, Kind::Mmio, 0x800_0000..0x801_0000),
        Row::fixed(RowName::Gicc, Kind::Mmio, 0x801_0000..0x802_0000).when(When::Gic(Gic::V2)),
        Row::fixed(RowName::Gicv, Kind::Reserved, 0x802_0000..0x803_0000).when(When::Gic(Gic::V2)),
        Row::fixed(RowName::Gich, Kind::Reserved, 0x803_0000..0x804_0000).when(When::Gic(Gic::V2)),
        Row::fixed(RowName::Gicr, Kind::Mmio, VIRT_GICR).when(When::Gic(Gic::V3)),
        Row::fixed(RowName::Uart, Kind::Mmio, 0x900_0000..0x900_1000),
        Row::fixed(RowName::Rtc, Kind::Mmio, 0x901_0000..0x901_1000),
        Row::fixed(RowName::Gpio, Kind::Mmio, 0x903_0000..0x903_1000),
        Row::fixed(RowName::Virtio, Kind::Mmio, 0xA00_0000..0xA08_0000),
        Row::fixed(RowName::PlatformBus, Kind::Mmio, 0xC00_0000..0xE00_0000),
        Row::fixed(RowName::PcieEcam, Kind::Pci, 0x1000_0000..0x2000_0000),
        Row::fixed(RowName::PcieMmio, Kind::Pci, 0x2000_0000..0x3000_0000),
        Row::region(RowName::Ram, Kind::Ram, Base::At(VIRT_RAM), Size::Ram { max: u64::MAX }),
        Row::region(RowName::Shm, Kind::Shm, Base::After { rows: &[RowName::Ram], floor: 0 }, Size::Shm).align(GIB),
        Row::claim(RowName::FirmwareImage, Base::At(0), Size::Firmware).within(&[RowName::Flash]).when(FIRMWARE),
        Row::fixed_claim(RowName::Fdt, VIRT_RAM..VIRT_RAM + VIRT_FDT).when(When::Flat(false)),
        Row::claim(RowName::Kernel, Base::At(VIRT_RAM + 2 * MIB), Size::Kernel { lowest: VIRT_RAM })
            .within(RAM)
            .when(When::Flat(false)),
        Row::claim(RowName::Kernel, Base::At(VIRT_RAM + VIRT_FDT), Size::Kernel { lowest: VIRT_RAM })
            .within(RAM)
            .when(When::Flat(true)),
        Row::claim(RowName::Initrd, Base::After { rows: &[RowName::Kernel], floor: VIRT_RAM + 2 * MIB }, Size::Initrd)
            .align(PAGE_SIZE)
            .within(RAM)
            .when(When::Flat(false)),
        Row::claim(RowName::Initrd, VIRT_BEHIND_FLAT, Size::Initrd).align(PAGE_SIZE).within(RAM).when(When::Flat(true)),
        Row::claim(RowName::Fdt, VIRT_BEHIND_FLAT, Size::Bytes(VIRT_FDT))
            .align(2 * MIB)
            .within(RAM)
            .when(When::Flat(true)),
    ],
    window_region: RowName::Virtio,
    window_size: 16 * KIB,
    window_irqs: &[VIRT_WINDOW_SPIS],
    max_vcpus: &[GICV2_VCPUS, (When::Always, ((VIRT_GICR.end - VIRT_GICR.start) / REDISTRIBUTOR_SIZE) as u32)],
};
