//! From a configuration to everything that is decided before KVM is asked: the map, the command line, the devices with
//! their addresses and interrupts. Pure: what files say has been read into a [`Probe`].

mod error;
mod shm;
mod windows;

use std::path::Path;

use carpel_arch::map::{Arch, Boot, Gic, Inputs, KernelExtent, Layout, MemoryMap, RowName};
use carpel_arch::x86_64::cpu::CpuModel;
use carpel_arch::{Device, DeviceKind, LAYOUTS, ShmRequest, Topology, device};
use carpel_devices::virtio::ShmRegion;
use carpel_devices::virtio::config::VirtioConfig;
use linux_loader::cmdline::Cmdline;

use crate::config::{Announce, Config, IrqchipMode};
use crate::loader::kernel::{Handover, Kernel, Module};
pub use error::PlanError;

/// What every Linux guest is told before the user's own words, beside its console: to reset when it panics, so that a
/// panic ends the run.
const BASE_CMDLINE: &str = "panic=-1";

/// What the plan must know of the files and the host.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The kernel's headers, if there is one; firmware's where that is started.
    pub kernel: Option<Kernel>,
    /// The kernel that firmware is handed.
    pub handover: Option<Handover>,
    /// The initial RAM disks in their places.
    pub initrds: Vec<Module>,
    /// The command line that came with the kernel.
    pub cmdline: Option<String>,
    /// What the host offers.
    pub host: HostFacts,
}

/// What the plan must know of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Guest physical address bits.
    pub phys_bits: u8,
    /// The newest interrupt controller that KVM emulates on an Arm host.
    pub gic: Gic,
}

/// Everything that is decided about a guest before it is built.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The guest physical map.
    pub map: MemoryMap,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// How they are arranged.
    pub topology: Topology,
    /// What of the host's processor they show.
    pub cpu: CpuModel,
    /// The kernel, or the firmware that is started instead.
    pub kernel: Kernel,
    /// The kernel that firmware is handed.
    pub handover: Option<Handover>,
    /// What shows that the kernel is Linux, as a sentence without its end; none if it is not.
    pub linux: Option<&'static str>,
    /// The kernel command line.
    pub cmdline: String,
    /// The initial RAM disks in their places.
    pub modules: Vec<Module>,
    /// Guest physical address bits.
    pub phys_bits: u8,
    /// The interrupt controllers.
    pub irqchip: IrqchipMode,
    /// All devices: those that the machine comes with, then the virtio devices in the order of the configuration.
    pub devices: Vec<Device>,
    /// The shared memory of each virtio device, in the order of the configuration.
    pub shm: Vec<Vec<ShmRegion>>,
    /// How the guest learns of its virtio devices.
    pub announce: Announce,
}

impl HostFacts {
    /// What common hosts of the architecture offer.
    pub const fn assumed(arch: Arch) -> Self {
        Self { phys_bits: arch.default_phys_bits(), gic: Gic::V3 }
    }
}

impl Probe {
    /// The guest physical map of this configuration, with these regions of shared memory.
    pub fn map(&self, config: &Config, shm: &[ShmRequest]) -> Result<MemoryMap, PlanError> {
        let layout = config.layout()?;
        let (kernel, firmware) = match &self.kernel {
            Some(Kernel { boot: Boot::Firmware, extent: KernelExtent::Flat { size }, .. }) => (None, *size),
            kernel => (kernel.as_ref().map(|kernel| kernel.extent), 0),
        };
        let inputs = Inputs {
            vcpus: config.cpus.vcpus(),
            phys_bits: self.host.phys_bits,
            boot: self.boot(),
            gic: if self.irqchip(config)? == IrqchipMode::GicV2 { Gic::V2 } else { Gic::V3 },
            kernel,
            firmware,
            // What is handed to firmware is not in memory yet.
            initrd: if self.handover.is_some() { 0 } else { Module::end(&self.initrds) },
            initrd_limit: self.kernel.as_ref().map_or(u64::MAX, |kernel| kernel.initrd_limit),
            shm: shm.to_vec(),
            ..Inputs::new(layout.arch, config.mem)
        };
        carpel_arch::resolve(layout, &inputs).map_err(|source| {
            let other = other_layout(layout, &inputs);
            PlanError::Map { layout: layout.name, other, source: Box::new(source) }
        })
    }

    fn boot(&self) -> Boot {
        self.kernel.as_ref().map_or(Boot::Linux, |kernel| kernel.boot)
    }

    /// The interrupt controllers that the configuration names, or those that suit it best.
    fn irqchip(&self, config: &Config) -> Result<IrqchipMode, PlanError> {
        let arch = config.layout()?.arch;
        let best = match (arch, self.host.gic) {
            (Arch::Aarch64, Gic::V2) => IrqchipMode::GicV2,
            (Arch::Aarch64, Gic::V3) => IrqchipMode::GicV3,
            // Multiboot kernels are small ones, which expect a whole PC, as firmware does.
            (Arch::X86_64 | Arch::Riscv64, _) if matches!(self.boot(), Boot::Multiboot | Boot::Firmware) => {
                IrqchipMode::Full
            }
            (Arch::X86_64 | Arch::Riscv64, _) => IrqchipMode::Split,
        };
        match config.irqchip {
            Some(irqchip) if irqchip.is_gic() != best.is_gic() => Err(PlanError::Irqchip { arch, irqchip }),
            wanted => Ok(wanted.unwrap_or(best)),
        }
    }
}

impl Plan {
    /// Decides everything.
    pub fn new(config: &Config, probe: Probe) -> Result<Self, PlanError> {
        let asked: Vec<_> = config.devices.iter().map(VirtioConfig::shm).collect();
        let map = probe.map(config, &shm::requests(&asked))?;
        let shm = shm::places(&map, &asked);
        let (irqchip, phys_bits) = (probe.irqchip(config)?, probe.host.phys_bits);
        let kernel = probe.kernel.ok_or(PlanError::NoKernel)?;
        if kernel.boot == Boot::Firmware
            && [RowName::Firmware, RowName::FirmwareImage].into_iter().all(|name| map.claim(name).is_none())
        {
            return Err(PlanError::NoFirmware { arch: map.arch, layout: map.layout });
        }
        if let Some(handover) = &probe.handover {
            check_room(handover, Module::end(&probe.initrds), &map)?;
        }
        let mut devices = device::place(&map, kernel.boot, irqchip == IrqchipMode::Split)?;
        let console = devices.iter().find_map(|device| device.kind.console());
        let virtio = windows::place(&map, config)?;
        let announced = if config.announce == Announce::Cmdline { windows::words(&virtio) } else { Vec::new() };
        let words: Vec<_> = announced.iter().chain(&config.append).map(String::as_str).collect();
        if let (None, Some(firmware), false) =
            (probe.handover, &config.firmware, words.is_empty() && config.cmdline.is_none())
        {
            let words: Vec<_> = config.cmdline.iter().map(String::as_str).chain(words).collect();
            return Err(PlanError::CmdlineWithFirmware { words: words.join(" "), firmware: firmware.clone() });
        }
        let (entered, max) = match &probe.handover {
            Some(handover) => (Boot::Linux, handover.cmdline_max),
            None => (kernel.boot, kernel.cmdline_max),
        };
        let linux = if probe.handover.is_some() { Some("firmware is handed it") } else { kernel.linux };
        let console = console.filter(|_| linux.is_some());
        let first = first_words(config, console, entered, probe.cmdline.as_deref());
        let cmdline = cmdline(&first, &words, &map, max)?;
        devices.extend(virtio);
        Ok(Self {
            map,
            vcpus: config.cpus.vcpus(),
            topology: config.cpus,
            cpu: config.cpu.clone(),
            kernel,
            handover: probe.handover,
            linux,
            cmdline,
            modules: probe.initrds,
            phys_bits,
            irqchip,
            devices,
            shm,
            announce: config.announce,
        })
    }

    /// Whether the user gave Linux a whole command line that does not say where its console is.
    pub fn lacks_console(&self, config: &Config) -> bool {
        let has_console = self.cmdline.split_ascii_whitespace().any(|word| word.starts_with("console="));
        self.linux.is_some() && config.cmdline.is_some() && !has_console
    }

    /// The serial port that the console is connected to.
    pub fn console(&self) -> Option<&Device> {
        self.devices.iter().find(|device| device.kind.console().is_some())
    }

    /// The devices that the machine comes with.
    pub fn machine_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| device.kind != DeviceKind::VirtioMmio)
    }

    /// The virtio devices, in the order of the configuration.
    pub fn virtio_devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(|device| device.kind == DeviceKind::VirtioMmio)
    }

    /// The devices that tables may tell of: a virtio device is announced once.
    pub fn devices_in_tables(&self) -> Vec<&Device> {
        match self.announce {
            Announce::Tables => self.devices.iter().collect(),
            Announce::Cmdline => self.machine_devices().collect(),
        }
    }
}

/// Firmware loads the initial RAM disk as high as it may go, and checks nothing.
fn check_room(handover: &Handover, initrd: u64, map: &MemoryMap) -> Result<(), PlanError> {
    let low = map.ram().next().map_or(0, |ram| ram.end);
    let (needed, limit) = (handover.low_ram(initrd), low.min(handover.initrd_limit));
    if needed > limit { Err(PlanError::Handover { needed, limit }) } else { Ok(()) }
}

/// A file's name as far as it is printable ASCII, without its directory.
pub(crate) fn file_name(path: Option<&Path>) -> String {
    let name = path.and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    name.chars().map(|char| if char.is_ascii_graphic() { char } else { '_' }).collect()
}

/// Another layout of the architecture that has a map for a kernel with addresses of its own, where those are what this one has none for.
fn other_layout(layout: &Layout, inputs: &Inputs) -> Option<&'static str> {
    let resolves = |layout: &Layout| carpel_arch::resolve(layout, inputs).is_ok();
    let others = || LAYOUTS.iter().copied().filter(|other| other.arch == layout.arch && other.name != layout.name);
    let is_fixed = matches!(inputs.kernel, Some(KernelExtent::Fixed { .. }));
    is_fixed.then(|| others().find(|other| resolves(other)).map(|other| other.name)).flatten()
}

/// The words before the user's: those of a whole command line, what Linux is told of its console and its end, and what came with the kernel.
/// To a Multiboot kernel the first word is its own name.
fn first_words(config: &Config, console: Option<&str>, boot: Boot, with_kernel: Option<&str>) -> String {
    if let Some(whole) = &config.cmdline {
        return whole.clone();
    }
    let own = match boot {
        Boot::Multiboot => file_name(config.kernel.as_deref()),
        Boot::Firmware => String::new(),
        Boot::Linux | Boot::Pvh => console.map(|name| format!("console={name} {BASE_CMDLINE}")).unwrap_or_default(),
    };
    [&own, with_kernel.unwrap_or_default()].into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(" ")
}

fn cmdline(first: &str, words: &[&str], map: &MemoryMap, max: usize) -> Result<String, PlanError> {
    let parts = || std::iter::once(first).chain(words.iter().copied()).filter(|part| !part.is_empty());
    let room = map.claim(RowName::Cmdline).map_or(usize::MAX, |claim| claim.size() as usize - 1);
    let limit = room.min(max);
    let whole = parts().collect::<Vec<_>>().join(" ");
    if whole.len() > limit {
        return Err(PlanError::CmdlineTooLong { size: whole.len(), limit, cmdline: whole });
    }
    // The capacity counts the final NUL.
    let mut cmdline = Cmdline::new(limit + 1).map_err(|_| PlanError::CmdlineText { text: whole.clone() })?;
    for part in parts() {
        cmdline.insert_str(part).map_err(|_| PlanError::CmdlineText { text: part.escape_debug().to_string() })?;
    }
    let text = cmdline.as_cstring().ok().and_then(|text| text.into_string().ok());
    text.ok_or(PlanError::CmdlineText { text: whole })
}
