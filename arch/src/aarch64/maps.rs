//! The aarch64 layouts. Addresses are intermediate physical addresses.

use std::ops::Range;

use crate::map::{Arch, Base, Boot, Gic, Kind, Layout, PAGE_SIZE, Row, Size, When};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const KERNEL: When = When::Boot(&[Boot::Linux]);
const FIRMWARE: When = When::Boot(&[Boot::Firmware]);

/// A redistributor's two frames, `RD_base` and `SGI_base`, of 64 KiB each (Arm IHI 0069, "Redistributor frames").
const REDISTRIBUTOR_SIZE: u64 = 128 * KIB;

const RAM: &[&str] = &["ram"];

const CROSVM_RAM: u64 = 0x8000_0000;
const CROSVM_GIC_DIST: u64 = 0x3FFF_0000;
/// The first four are the serial ports' and the RTC's; 64 SPIs in all, a multiple of the GIC's granularity of 32.
const CROSVM_WINDOW_SPIS: Range<u32> = 4..64;

/// Devices in the lowest megabytes, the GIC below 1 GiB, RAM from 2 GiB; the default.
pub static CROSVM: Layout = Layout {
    name: "crosvm",
    arch: Arch::Aarch64,
    rows: &[
        Row::fixed("serial3", Kind::Mmio, 0x2E8..0x2F0),
        Row::fixed("serial1", Kind::Mmio, 0x2F8..0x300),
        Row::fixed("serial2", Kind::Mmio, 0x3E8..0x3F0),
        Row::fixed("serial0", Kind::Mmio, 0x3F8..0x400),
        Row::fixed("rtc", Kind::Mmio, 0x2000..0x3000),
        Row::fixed("vmwdt", Kind::Reserved, 0x3000..0x4000),
        Row::fixed("pci_cam", Kind::Pci, 0x1_0000..0x2_0000),
        Row::fixed("virtfreq", Kind::Reserved, 0x104_0000..0x105_0000),
        Row::fixed("pvtime", Kind::Reserved, 0x1FF_0000..0x200_0000),
        Row::fixed("mmio", Kind::Mmio, 0x200_0000..0x400_0000),
        Row::fixed("gic_cpu", Kind::Mmio, 0x3FFD_0000..CROSVM_GIC_DIST).when(When::Gic(Gic::V2)),
        Row::region("gic_redist", Kind::Mmio, Base::EndingAt(CROSVM_GIC_DIST), Size::PerVcpu(REDISTRIBUTOR_SIZE))
            .when(When::Gic(Gic::V3)),
        Row::fixed("gic_dist", Kind::Mmio, CROSVM_GIC_DIST..0x4000_0000),
        Row::fixed("pvm_firmware", Kind::Reserved, 0x7FC0_0000..CROSVM_RAM),
        Row::region("ram", Kind::Ram, Base::At(CROSVM_RAM), Size::Ram { max: u64::MAX }),
        Row::region("platform_mmio", Kind::Mmio, Base::After { rows: &["ram"], floor: 0 }, Size::Bytes(8 * MIB)),
        Row::region("shm", Kind::Shm, Base::After { rows: &["platform_mmio"], floor: 0 }, Size::Shm).align(GIB),
        Row::region("high_mmio", Kind::Mmio, Base::After { rows: &["platform_mmio", "shm"], floor: 0 }, Size::ToLimit),
        Row::claim("kernel", Base::At(CROSVM_RAM), Size::Kernel { lowest: CROSVM_RAM }).within(RAM),
        Row::claim("initrd", Base::After { rows: &["kernel"], floor: CROSVM_RAM }, Size::Initrd)
            .align(PAGE_SIZE)
            .within(RAM),
        Row::claim("fdt", Base::TopOf { row: "ram", above: &["kernel", "initrd"] }, Size::Bytes(2 * MIB))
            .align(2 * MIB)
            .within(RAM)
            .when(KERNEL),
        Row::fixed_claim("fdt", CROSVM_RAM..CROSVM_RAM + 2 * MIB).when(FIRMWARE),
        Row::claim("firmware", Base::At(CROSVM_RAM + 2 * MIB), Size::Firmware).within(RAM).when(FIRMWARE),
    ],
    window_region: "mmio",
    window_size: PAGE_SIZE,
    window_irqs: &[CROSVM_WINDOW_SPIS],
    // Linux's VGIC_V3_MAX_CPUS; the redistributors of so many still end well above `mmio`.
    max_vcpus: &[GICV2_VCPUS, (When::Always, 512)],
};

/// The architecture's limit of `GICv2`: CPU targets are a byte, one bit each (Arm IHI 0048, `GICD_ITARGETSR`).
const GICV2_VCPUS: (When, u32) = (When::Gic(Gic::V2), 8);

const VIRT_RAM: u64 = 0x4000_0000;
/// QEMU's second flash has 64 MiB; edk2 uses 768 KiB of it for its variables, U-Boot 256 KiB for its environment.
const VIRT_VARIABLES: Range<u64> = 0x400_0000..0x410_0000;
const VIRT_GICR: Range<u64> = 0x80A_0000..0x900_0000;
/// One for each of the 32 windows.
const VIRT_WINDOW_SPIS: Range<u32> = 16..48;

/// QEMU's `virt` machine, without PCI.
pub static VIRT: Layout = Layout {
    name: "virt",
    arch: Arch::Aarch64,
    rows: &[
        Row::fixed("flash", Kind::Firmware, 0..0x400_0000),
        Row::fixed("flash_variables", Kind::Firmware, VIRT_VARIABLES).when(FIRMWARE),
        Row::fixed("gicd", Kind::Mmio, 0x800_0000..0x801_0000),
        Row::fixed("gicc", Kind::Mmio, 0x801_0000..0x802_0000).when(When::Gic(Gic::V2)),
        Row::fixed("gicv", Kind::Reserved, 0x802_0000..0x803_0000).when(When::Gic(Gic::V2)),
        Row::fixed("gich", Kind::Reserved, 0x803_0000..0x804_0000).when(When::Gic(Gic::V2)),
        Row::fixed("gicr", Kind::Mmio, VIRT_GICR).when(When::Gic(Gic::V3)),
        Row::fixed("uart", Kind::Mmio, 0x900_0000..0x900_1000),
        Row::fixed("rtc", Kind::Mmio, 0x901_0000..0x901_1000),
        Row::fixed("gpio", Kind::Mmio, 0x903_0000..0x903_1000),
        Row::fixed("virtio", Kind::Mmio, 0xA00_0000..0xA08_0000),
        Row::fixed("platform_bus", Kind::Mmio, 0xC00_0000..0xE00_0000),
        Row::fixed("pcie_ecam", Kind::Pci, 0x1000_0000..0x2000_0000),
        Row::fixed("pcie_mmio", Kind::Pci, 0x2000_0000..0x3000_0000),
        Row::region("ram", Kind::Ram, Base::At(VIRT_RAM), Size::Ram { max: u64::MAX }),
        Row::region("shm", Kind::Shm, Base::After { rows: &["ram"], floor: 0 }, Size::Shm).align(GIB),
        Row::claim("firmware_image", Base::At(0), Size::Firmware).within(&["flash"]).when(FIRMWARE),
        Row::fixed_claim("fdt", VIRT_RAM..VIRT_RAM + 512 * KIB),
        Row::claim("kernel", Base::At(VIRT_RAM + 2 * MIB), Size::Kernel { lowest: VIRT_RAM })
            .within(RAM)
            .when(When::Flat(false)),
        Row::claim("kernel", Base::At(VIRT_RAM + 512 * KIB), Size::Kernel { lowest: VIRT_RAM })
            .within(RAM)
            .when(When::Flat(true)),
        Row::claim("initrd", Base::After { rows: &["kernel"], floor: VIRT_RAM + 2 * MIB }, Size::Initrd)
            .align(PAGE_SIZE)
            .within(RAM),
    ],
    window_region: "virtio",
    window_size: 16 * KIB,
    window_irqs: &[VIRT_WINDOW_SPIS],
    max_vcpus: &[GICV2_VCPUS, (When::Always, ((VIRT_GICR.end - VIRT_GICR.start) / REDISTRIBUTOR_SIZE) as u32)],
};
