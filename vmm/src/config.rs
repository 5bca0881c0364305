//! What a guest shall be: plain values, checked against nothing but themselves.

use std::path::PathBuf;
use std::time::Duration;

use carpel_arch::map::{Arch, Boot, Layout};
use carpel_arch::x86_64::cpu::CpuModel;
use carpel_arch::{LAYOUTS, Topology};
use carpel_devices::endpoint::Target;
use carpel_devices::registry::{Key, Kind, Value};
use carpel_devices::virtio::config::VirtioConfig;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The configuration of one run, as a configuration file has it: a guest, and what is done with it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Config {
    /// Architecture of the guest; this host's, if none is named.
    pub arch: Option<Arch>,
    /// Name of its guest physical map; the architecture's default, if none is named.
    pub layout: Option<String>,
    /// Guest memory in bytes.
    pub mem: u64,
    /// Whether it is made of huge pages of the host's pool.
    pub hugepages: bool,
    /// Whether it is a memfd, which other processes can map.
    pub shared_memory: bool,
    /// The vCPUs and their arrangement.
    pub cpus: Topology,
    /// What of the host's processor they show.
    pub cpu: CpuModel,
    /// Firmware to start.
    pub firmware: Option<PathBuf>,
    /// Kernel to boot.
    pub kernel: Option<PathBuf>,
    /// How to boot the kernel; the best way that it offers, if none is named.
    pub boot: Option<Boot>,
    /// Initial RAM disks, one after the other.
    pub initrd: Vec<PathBuf>,
    /// The whole kernel command line, instead of what Linux is told of itself and what came with the kernel.
    pub cmdline: Option<String>,
    /// What to add to the kernel command line, in this order.
    pub append: Vec<String>,
    /// The interrupt controllers; what suits kernel and host, if none are named.
    pub irqchip: Option<IrqchipMode>,
    /// How the guest learns of its virtio devices.
    pub announce: Announce,
    /// Its virtio devices: all of them.
    pub devices: Vec<VirtioConfig>,
    /// What is done with it.
    pub run: Limits,
}

/// What ends a run besides the guest itself, and what is looked at.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// Where the guest's console goes.
    pub console: Target,
    /// The longest time that the guest may take.
    #[serde(with = "duration")]
    pub timeout: Option<Duration>,
    /// The longest time without any output.
    #[serde(with = "duration")]
    pub watchdog: Option<Duration>,
    /// Regular expression whose match on the console ends the run as a success.
    pub until: Option<String>,
    /// Regular expressions whose match on the console ends the run as a failure.
    pub fail_on: Vec<String>,
    /// Whether the run ends when the process that started carpel ends.
    pub die_with_parent: Option<bool>,
    /// Where the run's facts are written.
    pub report: Vec<PathBuf>,
    /// What reports call the run; as its kernel, if it has no name.
    pub name: Option<String>,
    /// Read the guest's physical and virtual map when it has ended.
    #[serde(rename = "dump-map-on-exit")]
    pub dump_map: bool,
}

/// Memory of a guest of which nothing is said, in bytes.
const DEFAULT_MEM: u64 = 1 << 30;

impl Default for Config {
    fn default() -> Self {
        Self {
            arch: None,
            layout: None,
            mem: DEFAULT_MEM,
            hugepages: false,
            shared_memory: false,
            cpus: Topology { sockets: 1, cores: 1, threads: 1 },
            cpu: CpuModel::default(),
            firmware: None,
            kernel: None,
            boot: None,
            initrd: Vec::new(),
            cmdline: None,
            append: Vec::new(),
            irqchip: None,
            announce: Announce::default(),
            devices: Vec::new(),
            run: Limits::default(),
        }
    }
}

/// A guest physical map that there is not.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// carpel was built for an architecture without any.
    #[error("No layout is known for this host's architecture")]
    Host,
    /// The name is none of the architecture's.
    #[error("There is no layout `{name}` for {arch}; there is {names}")]
    Unknown {
        /// The name.
        name: String,
        /// The architecture.
        arch: Arch,
        /// The architecture's layouts.
        names: String,
    },
}

impl Config {
    /// The guest physical map that it names, or the default one; the architecture comes with it.
    pub fn layout(&self) -> Result<&'static Layout, LayoutError> {
        let arch = self.arch.or(Arch::HOST).ok_or(LayoutError::Host)?;
        let layouts = || LAYOUTS.iter().copied().filter(|layout| layout.arch == arch);
        let found = layouts().find(|layout| self.layout.as_ref().is_none_or(|name| layout.name == name));
        found.ok_or_else(|| LayoutError::Unknown {
            name: self.layout.clone().unwrap_or_default(),
            arch,
            names: layouts().map(|layout| layout.name).collect::<Vec<_>>().join(", "),
        })
    }
}

/// A duration that may be missing, as people write it.
mod duration {
    use std::time::Duration;

    use carpel_devices::units;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub fn serialize<T, S>(duration: &T, serializer: S) -> Result<S::Ok, S::Error>
    where
        T: Copy + Into<Option<Duration>>,
        S: Serializer,
    {
        match (*duration).into() {
            None => serializer.serialize_none(),
            Some(duration) => serializer.serialize_str(&units::duration_text(duration)),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| units::time_limit(&text).map_err(de::Error::custom)).transpose()
    }
}

/// How a guest learns of devices that it cannot look for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Announce {
    /// By the tables of its architecture: ACPI on a PC.
    #[default]
    Tables,
    /// By words on the kernel command line, for kernels without ACPI.
    Cmdline,
}

/// The interrupt controllers of a machine, and who emulates them.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
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

/// How `--device` chooses the interrupt controllers.
pub static IRQCHIP: Kind = Kind {
    name: "irqchip",
    about: "The interrupt controllers",
    keys: &[Key {
        name: "mode",
        about: "of a PC, split (IOAPIC in carpel, no PIC or PIT) or full (all in KVM, with PIC and PIT); on aarch64, \
                gicv2 or gicv3, as by --gic",
        value: Value::OneOf(&[
            IrqchipMode::Split.name(),
            IrqchipMode::Full.name(),
            IrqchipMode::GicV2.name(),
            IrqchipMode::GicV3.name(),
        ]),
        default: "split; gicv3 where the host has it",
    }],
    bare: None,
    example: "--device irqchip,mode=full",
    standard: false,
    single: false,
};
