//! `--dry-run`: what a run would be, for people and for scripts.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use carpel_arch::map::{Arch, Boot, MemoryMap};
use carpel_arch::{Place, Topology};
use carpel_vmm::config::{Config, IrqchipMode};
use carpel_vmm::plan::Plan;
use serde::Serialize;

/// What is decided about a guest, with all that kernel and host choose.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Resolved<'a> {
    arch: Arch,
    layout: &'static str,
    mem: u64,
    cpus: Topology,
    phys_bits: u8,
    kernel_format: &'static str,
    boot: Boot,
    linux: bool,
    irqchip: IrqchipMode,
    cmdline: &'a str,
    map: &'a MemoryMap,
    devices: Vec<PlacedDevice>,
}

/// A device, and where the guest finds it.
#[derive(Serialize)]
struct PlacedDevice {
    name: &'static str,
    /// `port` or `mmio`.
    space: &'static str,
    start: u64,
    /// Exclusive.
    end: u64,
    irq: Option<u32>,
}

/// The plan in lines.
pub fn text(plan: &Plan) -> String {
    let mut text = plan.map.to_string();
    let (format, boot) = (plan.kernel.format.name(), plan.kernel.boot.name());
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\nkernel: {format} by {boot}, {} vCPU(s)", plan.vcpus);
    let linux = plan.linux.map_or("no, its command line is the user's".into(), |shown| format!("yes, {shown}"));
    let _ = writeln!(text, "linux: {linux}");
    let _ = writeln!(text, "command line: {}", plan.cmdline);
    let _ = writeln!(text, "irqchip: {}", plan.irqchip.name());
    for device in &plan.devices {
        let irq = device.irq.map(|irq| format!(", IRQ {irq}")).unwrap_or_default();
        let _ = writeln!(text, "device: {} at {}{irq}", device.name, device.place);
    }
    text
}

/// The configuration and the plan as one JSON object, which `--config` reads.
pub fn json(config: &Config, plan: &Plan) -> Result<String> {
    #[derive(Serialize)]
    struct Whole<'a> {
        config: &'a Config,
        plan: Resolved<'a>,
    }
    let whole = Whole { config, plan: resolved(plan) };
    Ok(serde_json::to_string_pretty(&whole).context("Cannot print the configuration")? + "\n")
}

fn resolved(plan: &Plan) -> Resolved<'_> {
    let devices = plan.devices.iter().map(|device| {
        let (space, range) = match &device.place {
            Place::Ports(range) => ("port", u64::from(range.start)..u64::from(range.end)),
            Place::Mmio(range) => ("mmio", range.clone()),
        };
        PlacedDevice { name: device.name, space, start: range.start, end: range.end, irq: device.irq }
    });
    Resolved {
        arch: plan.map.arch,
        layout: plan.map.layout,
        mem: plan.map.mem,
        cpus: plan.topology,
        phys_bits: plan.phys_bits,
        kernel_format: plan.kernel.format.name(),
        boot: plan.kernel.boot,
        linux: plan.linux.is_some(),
        irqchip: plan.irqchip,
        cmdline: &plan.cmdline,
        map: &plan.map,
        devices: devices.collect(),
    }
}
