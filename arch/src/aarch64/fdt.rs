//! The flattened device tree of an Arm machine: all that a kernel is told of it.
//!
//! Sources: Devicetree Specification 0.4; the bindings in Linux's Documentation/devicetree/bindings, named where they matter.

use std::ops::Range;

use thiserror::Error;
use vm_fdt::FdtWriter;

use super::devices::{ArmDevice, GPIO_HANDLE, Node, Property};
use super::gic::GicMap;
use crate::device::{Device, DeviceKind, Place};
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
    /// The devices that it tells of.
    pub devices: &'a [&'a Device],
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
    /// A device that no Arm machine has, or that has no place in its addresses.
    #[error("The device tree of an Arm machine cannot describe the device `{0}`")]
    Device(&'static str),
}

/// Handles by which nodes refer to others.
const GIC: u32 = 1;
const CLOCK: u32 = 2;

/// Kinds and flags of interrupts (bindings, interrupt-controller/arm,gic.yaml).
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// The generic timer's PPIs, in the order of its binding (timer/arm,arch_timer.yaml): secure, non-secure, virtual, hypervisor.
const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

/// The frequency of the bus's clock in Hz: any that drivers can divide to a baud rate, for none is kept.
const BUS_CLOCK: u32 = 24_000_000;
/// Line 3 of the PL061 is QEMU's power key, and Linux's code for it (include/uapi/linux/input-event-codes.h).
const POWER_LINE: u32 = 3;
const KEY_POWER: u32 = 116;

/// How a virtio device is described (bindings, virtio/mmio.yaml).
const VIRTIO_MMIO: Node = Node {
    name: "virtio_mmio",
    compatible: &["virtio,mmio"],
    clocks: &[],
    properties: &[Property::Flag("dma-coherent")],
};

/// A device as its node describes it.
struct Described<'a> {
    device: &'a Device,
    node: Node,
    range: &'a Range<u64>,
}

impl<'a> Described<'a> {
    fn new(device: &'a Device) -> Result<Self, FdtError> {
        match (device.kind, &device.place) {
            (DeviceKind::Arm(arm), Place::Mmio(range)) => Ok(Self { device, node: arm.node(), range }),
            (DeviceKind::VirtioMmio, Place::Mmio(range)) => Ok(Self { device, node: VIRTIO_MMIO, range }),
            _ => Err(FdtError::Device(device.name)),
        }
    }

    fn name(&self) -> String {
        format!("{}@{:x}", self.node.name, self.range.start)
    }
}

/// Writes the tree.
pub fn build(machine: &Machine) -> Result<Vec<u8>, FdtError> {
    let gic = GicMap::of(machine.map).ok_or(FdtError::NoGic)?;
    let devices = machine.devices.iter().map(|device| Described::new(device)).collect::<Result<Vec<_>, _>>()?;
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "carpel")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    chosen(&mut fdt, machine, &devices)?;
    memory(&mut fdt, machine.map)?;
    cpus(&mut fdt, machine.vcpus)?;
    psci(&mut fdt)?;
    timer(&mut fdt, &gic, machine.vcpus)?;
    interrupt_controller(&mut fdt, &gic)?;
    if devices.iter().any(|device| !device.node.clocks.is_empty()) {
        clock(&mut fdt)?;
    }
    for each in &devices {
        device(&mut fdt, each)?;
    }
    if machine.devices.iter().any(|device| device.kind == DeviceKind::Arm(ArmDevice::Pl061)) {
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

fn chosen(fdt: &mut FdtWriter, machine: &Machine, devices: &[Described]) -> Result<(), FdtError> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", machine.cmdline)?;
    if let Some(port) = devices.iter().find(|described| described.device.kind.console().is_some()) {
        fdt.property_string("stdout-path", &format!("/{}", port.name()))?;
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

fn device(fdt: &mut FdtWriter, described: &Described) -> Result<(), FdtError> {
    let Described { device, node, range } = described;
    let begun = fdt.begin_node(&described.name())?;
    strings(fdt, "compatible", node.compatible)?;
    reg(fdt, &[range])?;
    if let Some(spi) = device.irq {
        fdt.property_array_u32("interrupts", &[SPI, spi, EDGE_RISING])?;
    }
    if !node.clocks.is_empty() {
        fdt.property_array_u32("clocks", &vec![CLOCK; node.clocks.len()])?;
        strings(fdt, "clock-names", node.clocks)?;
    }
    for property in node.properties {
        match *property {
            Property::Flag(name) => fdt.property_null(name)?,
            Property::Number(name, value) => fdt.property_u32(name, value)?,
            Property::Handle(handle) => fdt.property_phandle(handle)?,
        }
    }
    Ok(fdt.end_node(begun)?)
}

fn power_key(fdt: &mut FdtWriter) -> Result<(), FdtError> {
    let node = fdt.begin_node("gpio-keys")?;
    fdt.property_string("compatible", "gpio-keys")?;
    let key = fdt.begin_node("poweroff")?;
    fdt.property_string("label", "GPIO Key Poweroff")?;
    fdt.property_u32("linux,code", KEY_POWER)?;
    fdt.property_array_u32("gpios", &[GPIO_HANDLE, POWER_LINE, 0])?;
    fdt.end_node(key)?;
    Ok(fdt.end_node(node)?)
}

fn reg(fdt: &mut FdtWriter, ranges: &[&Range<u64>]) -> Result<(), FdtError> {
    let cells: Vec<_> = ranges.iter().flat_map(|range| [range.start, range.end - range.start]).collect();
    Ok(fdt.property_array_u64("reg", &cells)?)
}

fn strings(fdt: &mut FdtWriter, name: &str, values: &[&str]) -> Result<(), FdtError> {
    Ok(fdt.property_string_list(name, values.iter().map(|&value| value.to_owned()).collect())?)
}
