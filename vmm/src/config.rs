//! What a guest shall be: plain values, checked against nothing but themselves.

use std::path::PathBuf;
use std::time::Duration;

use carpel_arch::Topology;
use carpel_arch::map::{Boot, Layout};
use carpel_arch::x86_64::cpu::CpuModel;
use carpel_devices::registry::Options;
use carpel_devices::virtio::VirtioKind;
use serde::Serialize;

/// The configuration of one guest.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its guest physical map; the architecture comes with it.
    pub layout: &'static Layout,
    /// Guest memory in bytes.
    pub mem: u64,
    /// The vCPUs and their arrangement.
    pub topology: Topology,
    /// What of the host's processor they show.
    pub cpu: CpuModel,
    /// Firmware to start.
    pub firmware: Option<PathBuf>,
    /// Kernel to boot.
    pub kernel: Option<PathBuf>,
    /// How to boot the kernel; the best way that it offers, if none is named.
    pub boot: Option<Boot>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// What to add to the kernel command line, in this order.
    pub append: Vec<String>,
    /// The interrupt controller; what suits the kernel, if none is named.
    pub irqchip: Option<IrqchipMode>,
    /// Its virtio devices.
    pub virtio: Vec<VirtioConfig>,
    /// How it learns of them.
    pub announce: Announce,
}

/// A virtio device that a guest shall have.
#[derive(Clone, Debug)]
pub struct VirtioConfig {
    /// Which kind.
    pub kind: &'static VirtioKind,
    /// What was said about it.
    pub options: Options,
}

/// How a guest learns of devices that it cannot look for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Announce {
    /// By the tables of its architecture: ACPI on a PC.
    #[default]
    Tables,
    /// By words on the kernel command line, for kernels without ACPI.
    Cmdline,
}

/// The interrupt controllers of a machine, and who emulates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IrqchipMode {
    /// Of a PC: KVM the local APICs, the monitor the IOAPIC; no PIC, no PIT. Enough for Linux and quick to take down.
    Split,
    /// Of a PC: KVM all of them: local APICs, IOAPIC, PIC and PIT, for guests that need a whole PC.
    Full,
    /// Of an Arm machine: `GICv2`, for at most 8 vCPUs.
    GicV2,
    /// Of an Arm machine: `GICv3`.
    GicV3,
}

impl IrqchipMode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Split, Self::Full, Self::GicV2, Self::GicV3];

    /// The name that `--device irqchip,mode=` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Full => "full",
            Self::GicV2 => "gicv2",
            Self::GicV3 => "gicv3",
        }
    }

    /// Whether it is an Arm machine's.
    pub const fn is_gic(self) -> bool {
        matches!(self, Self::GicV2 | Self::GicV3)
    }
}

/// What ends a run besides the guest itself, and what is looked at then.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The longest time that the guest may take.
    pub timeout: Option<Duration>,
    /// The longest time without any output.
    pub watchdog: Option<Duration>,
    /// Regular expression whose match on the console ends the run as a success.
    pub until: Option<String>,
    /// Regular expressions whose match on the console ends the run as a failure.
    pub fail_on: Vec<String>,
    /// Read the guest's physical and virtual map when it has ended.
    pub dump_map: bool,
}
