//! What a plan depends on beside its configuration: files and the host become values, each asked once.

use std::path::{Path, PathBuf};

use carpel_arch::map::{Arch, Boot, Gic};
use thiserror::Error;

use crate::config::{Config, LayoutError};
use crate::kvm;
use crate::loader::{self, Files, Handover, Kernel, KernelError, OpenError, Pipes, Ramdisk, Source};
use crate::plan::{HostFacts, Probe, file_name};

/// Why files cannot be what a configuration has them for.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// There is no such map.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Firmware finds its own kernel.
    #[error("--kernel and --initrd cannot be combined with --firmware yet: {} boots from a disk", .firmware.display())]
    KernelWithFirmware {
        /// The firmware.
        firmware: PathBuf,
    },
    /// Firmware would not look at it.
    #[error(
        "An initial RAM disk is for a kernel, and {} is handed none: add --kernel or drop --initrd",
        .firmware.display()
    )]
    InitrdWithFirmware {
        /// The firmware.
        firmware: PathBuf,
    },
    /// A file that cannot be used.
    #[error("Cannot use {} as {role}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it was to be.
        role: &'static str,
        /// The cause.
        source: OpenError,
    },
    /// A kernel that cannot be booted.
    #[error("Cannot boot {}", .path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: KernelError,
    },
}

impl Files {
    /// Opens the configuration's files, and unpacks the kernel where it is compressed.
    pub fn open(config: &Config) -> Result<Self, ProbeError> {
        let arch = config.layout()?.arch;
        let open_as = |path: &PathBuf, role, pipes| {
            Source::open(path, pipes).map_err(|source| ProbeError::File { path: path.clone(), role, source })
        };
        let open = |path: &PathBuf, role| open_as(path, role, Pipes::UpTo(config.mem));
        let firmware = config.firmware.as_ref();
        let firmware = firmware.map(|path| open_as(path, "the firmware", Pipes::Refused)).transpose()?;
        let (mut kernel, mut initrds, mut cmdline) = (None, Vec::new(), None);
        if let Some(path) = &config.kernel {
            let unpacked = loader::unpack(arch, open(path, "the kernel")?, config.boot, config.mem);
            let image = unpacked.map_err(|source| ProbeError::Kernel { path: path.clone(), source })?;
            initrds.extend(image.initrd.map(|source| Ramdisk { name: ".initrd".into(), source }));
            (kernel, cmdline) = (Some(image.kernel), image.cmdline);
        }
        for path in &config.initrd {
            initrds.push(Ramdisk { name: file_name(Some(path)), source: open(path, "the initial RAM disk")? });
        }
        Ok(Self { firmware, kernel, initrds, cmdline })
    }

    /// Reads their headers.
    pub fn probe(&self, config: &Config, host: HostFacts) -> Result<Probe, ProbeError> {
        let arch = config.layout()?.arch;
        let placed = |boot| loader::place(&self.initrds, boot);
        let cmdline = self.cmdline.clone();
        if let (Some(source), Some(path)) = (&self.firmware, config.firmware.clone()) {
            let handover = self.handover(config, arch, &path)?;
            let kernel = loader::firmware(arch, source.size()).map_err(|source| ProbeError::Kernel { path, source })?;
            return Ok(Probe { kernel: Some(kernel), handover, initrds: placed(Boot::Linux), cmdline, host });
        }
        let kernel = self.kernel.as_ref().map(|source| Kernel::probe(arch, source, config.boot)).transpose();
        let kernel = kernel.map_err(|source| {
            let path = config.kernel.clone().unwrap_or_default();
            ProbeError::Kernel { path, source }
        })?;
        let initrds = placed(kernel.as_ref().map_or(Boot::Linux, |kernel| kernel.boot));
        Ok(Probe { kernel, handover: None, initrds, cmdline, host })
    }

    /// Reads the headers of the kernel that firmware is handed.
    fn handover(&self, config: &Config, arch: Arch, firmware: &Path) -> Result<Option<Handover>, ProbeError> {
        let firmware = || firmware.to_owned();
        match (&self.kernel, &config.kernel) {
            _ if arch != Arch::X86_64 && (self.kernel.is_some() || !self.initrds.is_empty()) => {
                Err(ProbeError::KernelWithFirmware { firmware: firmware() })
            }
            (Some(source), Some(path)) => {
                let probed = Handover::probe(arch, source);
                probed.map(Some).map_err(|source| ProbeError::Kernel { path: path.clone(), source })
            }
            _ if !self.initrds.is_empty() => Err(ProbeError::InitrdWithFirmware { firmware: firmware() }),
            _ => Ok(None),
        }
    }
}

/// What this host offers a guest of this configuration.
pub fn host_facts(config: &Config) -> HostFacts {
    ask(config, kvm::phys_bits, kvm::newest_gic)
}

/// Asks for the GIC only where nothing else decides on it: the answer takes a VM.
fn ask(config: &Config, phys_bits: impl FnOnce() -> u8, newest_gic: impl FnOnce() -> Option<Gic>) -> HostFacts {
    let arch = config.layout().ok().map(|layout| layout.arch);
    let assumed = HostFacts::assumed(arch.unwrap_or(Arch::X86_64));
    let asks_for_gic = arch == Some(Arch::Aarch64) && config.irqchip.is_none();
    let gic = asks_for_gic.then(newest_gic).flatten().unwrap_or(assumed.gic);
    HostFacts { phys_bits: phys_bits(), gic }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::config::IrqchipMode;

    /// What the plan is made with on a host that has 44 bits and GICv2, and how often each was asked for.
    fn asked(arch: Arch, irqchip: Option<IrqchipMode>) -> (HostFacts, u32, u32) {
        let (bits, gic) = (Cell::new(0), Cell::new(0));
        let config = Config { arch: Some(arch), irqchip, ..Config::default() };
        let phys_bits = || {
            bits.set(bits.get() + 1);
            44
        };
        let newest_gic = || {
            gic.set(gic.get() + 1);
            Some(Gic::V2)
        };
        (ask(&config, phys_bits, newest_gic), bits.get(), gic.get())
    }

    #[test]
    fn a_vm_is_made_only_for_a_gic_that_nobody_names() {
        let facts = |gic| HostFacts { phys_bits: 44, gic };
        assert_eq!(asked(Arch::Aarch64, None), (facts(Gic::V2), 1, 1));
        for named in [IrqchipMode::GicV2, IrqchipMode::GicV3] {
            assert_eq!(asked(Arch::Aarch64, Some(named)), (facts(Gic::V3), 1, 0));
        }
        assert_eq!(asked(Arch::X86_64, None), (facts(Gic::V3), 1, 0));
    }

    #[test]
    fn a_host_that_makes_no_vm_is_taken_for_a_common_one() {
        let config = Config { arch: Some(Arch::Aarch64), ..Config::default() };
        assert_eq!(ask(&config, || 44, || None), HostFacts { phys_bits: 44, gic: Gic::V3 });
    }
}
