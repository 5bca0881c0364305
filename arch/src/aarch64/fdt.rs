//! The flattened device tree of an Arm machine: all that a kernel is told of it.
//!
//! Sources: Devicetree Specification 0.4; the bindings in Linux's Documentation/devicetree/bindings, named where they matter.

use std::ops::Range;

use thiserror::Error;
use vm_fdt::FdtWriter;

use super::gic::GicMap;
use crate::map::{Gic, MemoryMap, RowName};

/// What the tree describes.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The guest physical map.
    pub map: &'a MemoryMap,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The kernel command line.
    pub cmdline: &'a str,
    /// The devices.
    pub devices: Vec<Device>,
}

/// A device and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it is.
    pub kind: Kind,
    /// Its registers.
    pub range: Range<u64>,
    /// Its interrupt, if it has one: an SPI, counted from 0, that is edge-triggered.
    pub spi: Option<u32>,
}

/// The kinds of devices that a tree can describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A 16550A serial port with a byte for each register.
    Serial16550,
    /// A PL011 UART.
    Pl011,
    /// A PL031 real-time clock.
    Pl031,
    /// A PL061 with eight general-purpose lines, of which one is the power key.
    Pl061,
    /// A virtio-mmio transport.
    VirtioMmio,
    /// Flash memory of two 16-bit chips side by side that tells its properties by the Common Flash Interface.
    CfiFlash,
}

impl Kind {
    const fn node_name(self) -> &'static str {
        match self {
            Self::Serial16550 | Self::Pl011 => "serial",
            Self::Pl031 => "rtc",
            Self::Pl061 => "gpio",
            Self::VirtioMmio => "virtio_mmio",
            Self::CfiFlash => "flash",
        }
    }

    const fn compatible(self) -> &'static [&'static str] {
        match self {
            Self::Serial16550 => &["ns16550a"],
            Self::Pl011 => &["arm,pl011", "arm,primecell"],
            Self::Pl031 => &["arm,pl031", "arm,primecell"],
            Self::Pl061 => &["arm,pl061", "arm,primecell"],
            Self::VirtioMmio => &["virtio,mmio"],
            Self::CfiFlash => &["cfi-flash"],
        }
    }

    /// The names by which a driver asks for its clocks, all of which are the bus's.
    const fn clocks(self) -> &'static [&'static str] {
        match self {
            Self::Pl011 => &["uartclk", "apb_pclk"],
            Self::Pl031 | Self::Pl061 => &["apb_pclk"],
            Self::Serial16550 | Self::VirtioMmio | Self::CfiFlash => &[],
        }
    }

    const fn is_serial(self) -> bool {
        matches!(self, Self::Serial16550 | Self::Pl011)
    }
}

/// Why there is no tree.
#[derive(Debug, Error)]
pub enum FdtError {
    /// The writer refused.
    #[error("Cannot write the device tree: {0:?}")]
    Write(#[from] vm_fdt::Error),
    /// The map is not an Arm machine's.
    #[error("The map has no interrupt controller")]
    NoGic,
}

/// Handles by which nodes refer to others.
const GIC: u32 = 1;
const CLOCK: u32 = 2;
const GPIO: u32 = 3;

/// Kinds and flags of interrupts (bindings, interrupt-controller/arm,gic.yaml).
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// The generic timer's PPIs, in the order of its binding (timer/arm,arch_timer.yaml): secure, non-secure, virtual, hypervisor.
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

/// The frequency that a PC's serial port divides, in Hz.
const SERIAL_CLOCK: u32 = 1_843_200;
/// The frequency of the bus's clock in Hz: any that drivers can divide to a baud rate, for none is kept.
const BUS_CLOCK: u32 = 24_000_000;
/// Line 3 of the PL061 is QEMU's power key, and Linux's code for it (include/uapi/linux/input-event-codes.h).
const POWER_LINE: u32 = 3;
const KEY_POWER: u32 = 116;

/// Bytes of the flash's data bus (bindings, mtd/mtd-physmap.yaml).
const FLASH_BANK_WIDTH: u32 = 4;

/// Writes the tree.
pub fn build(machine: &Machine) -> Result<Vec<u8>, FdtError> {
    let gic = GicMap::of(machine.map).ok_or(FdtError::NoGic)?;
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "carpel")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    chosen(&mut fdt, machine)?;
    memory(&mut fdt, machine.map)?;
    cpus(&mut fdt, machine.vcpus)?;
    psci(&mut fdt)?;
    timer(&mut fdt, &gic, machine.vcpus)?;
    interrupt_controller(&mut fdt, &gic)?;
    if machine.devices.iter().any(|device| !device.kind.clocks().is_empty()) {
        clock(&mut fdt)?;
    }
    for each in &machine.devices {
        device(&mut fdt, each)?;
    }
    if machine.devices.iter().any(|device| device.kind == Kind::Pl061) {
        power_key(&mut fdt)?;
    }
    fdt.end_node(root)?;
    Ok(fdt.finish()?)
}

/// The affinity of a vCPU, by which PSCI and the tree name it: the fields of MPIDR_EL1 as KVM numbers them (Linux,
/// arch/arm64/kvm/sys_regs.c, `reset_mpidr`). 16 vCPUs share the second level, as a GICv3 can address them at once.
pub const fn affinity(vcpu: u32) -> u32 {
    vcpu & 0xF | (vcpu >> 4 & 0xFF) << 8 | (vcpu >> 12 & 0xFF) << 16
}

fn chosen(fdt: &mut FdtWriter, machine: &Machine) -> Result<(), FdtError> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", machine.cmdline)?;
    if let Some(port) = machine.devices.iter().find(|device| device.kind.is_serial()) {
        fdt.property_string("stdout-path", &format!("/{}", name(port)))?;
    }
    if let Some(initrd) = machine.map.claim(RowName::Initrd) {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    Ok(fdt.end_node(node)?)
}

fn memory(fdt: &mut FdtWriter, map: &MemoryMap) -> Result<(), FdtError> {
    for ram in map.slots() {
        let node = fdt.begin_node(&format!("memory@{:x}", ram.start))?;
        fdt.property_string("device_type", "memory")?;
        reg(fdt, &[&ram])?;
        fdt.end_node(node)?;
    }
    Ok(())
}

fn cpus(fdt: &mut FdtWriter, vcpus: u32) -> Result<(), FdtError> {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for vcpu in 0..vcpus {
        let cpu = fdt.begin_node(&format!("cpu@{:x}", affinity(vcpu)))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", affinity(vcpu))?;
        fdt.end_node(cpu)?;
    }
    Ok(fdt.end_node(node)?)
}

fn psci(fdt: &mut FdtWriter) -> Result<(), FdtError> {
    let node = fdt.begin_node("psci")?;
    strings(fdt, "compatible", &["arm,psci-1.0", "arm,psci-0.2"])?;
    fdt.property_string("method", "hvc")?;
    Ok(fdt.end_node(node)?)
}

fn timer(fdt: &mut FdtWriter, gic: &GicMap, vcpus: u32) -> Result<(), FdtError> {
    // In GICv2's binding, bits 15-8 of the flags say which CPUs have the interrupt.
    let cpus = match gic.version {
        Gic::V2 => ((1 << vcpus.min(8)) - 1) << 8,
        Gic::V3 => 0,
    };
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let interrupts: Vec<_> = TIMER_PPIS.into_iter().flat_map(|ppi| [PPI, ppi, cpus | LEVEL_HIGH]).collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    Ok(fdt.end_node(node)?)
}

fn interrupt_controller(fdt: &mut FdtWriter, gic: &GicMap) -> Result<(), FdtError> {
    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", gic.distributor.start))?;
    fdt.property_string("compatible", if gic.version == Gic::V3 { "arm,gic-v3" } else { "arm,cortex-a15-gic" })?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_null("interrupt-controller")?;
    reg(fdt, &[&gic.distributor, &gic.cpu])?;
    fdt.property_phandle(GIC)?;
    Ok(fdt.end_node(node)?)
}

fn clock(fdt: &mut FdtWriter) -> Result<(), FdtError> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", BUS_CLOCK)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK)?;
    Ok(fdt.end_node(node)?)
}

fn device(fdt: &mut FdtWriter, device: &Device) -> Result<(), FdtError> {
    let node = fdt.begin_node(&name(device))?;
    strings(fdt, "compatible", device.kind.compatible())?;
    reg(fdt, &[&device.range])?;
    if let Some(spi) = device.spi {
        fdt.property_array_u32("interrupts", &[SPI, spi, EDGE_RISING])?;
    }
    let clocks = device.kind.clocks();
    if !clocks.is_empty() {
        fdt.property_array_u32("clocks", &vec![CLOCK; clocks.len()])?;
        strings(fdt, "clock-names", clocks)?;
    }
    match device.kind {
        Kind::Serial16550 => fdt.property_u32("clock-frequency", SERIAL_CLOCK)?,
        Kind::Pl061 => {
            fdt.property_null("gpio-controller")?;
            fdt.property_u32("#gpio-cells", 2)?;
            fdt.property_phandle(GPIO)?;
        }
        Kind::VirtioMmio => fdt.property_null("dma-coherent")?,
        Kind::CfiFlash => fdt.property_u32("bank-width", FLASH_BANK_WIDTH)?,
        Kind::Pl011 | Kind::Pl031 => {}
    }
    Ok(fdt.end_node(node)?)
}

fn power_key(fdt: &mut FdtWriter) -> Result<(), FdtError> {
    let node = fdt.begin_node("gpio-keys")?;
    fdt.property_string("compatible", "gpio-keys")?;
    let key = fdt.begin_node("poweroff")?;
    fdt.property_string("label", "GPIO Key Poweroff")?;
    fdt.property_u32("linux,code", KEY_POWER)?;
    fdt.property_array_u32("gpios", &[GPIO, POWER_LINE, 0])?;
    fdt.end_node(key)?;
    Ok(fdt.end_node(node)?)
}

fn name(device: &Device) -> String {
    format!("{}@{:x}", device.kind.node_name(), device.range.start)
}

fn reg(fdt: &mut FdtWriter, ranges: &[&Range<u64>]) -> Result<(), FdtError> {
    let cells: Vec<_> = ranges.iter().flat_map(|range| [range.start, range.end - range.start]).collect();
    Ok(fdt.property_array_u64("reg", &cells)?)
}

fn strings(fdt: &mut FdtWriter, name: &str, values: &[&str]) -> Result<(), FdtError> {
    Ok(fdt.property_string_list(name, values.iter().map(|&value| value.to_owned()).collect())?)
}
