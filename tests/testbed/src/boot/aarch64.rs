//! The boot tests of aarch64: the stock kernel in every layout, on hosts with either interrupt controller, and firmware.

mod firmware;
mod payloads;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::machine::Boot;
use super::virtio;
use crate::arch::Architecture;
use crate::guest::write_initrd;
use crate::host::{Host, Step};
use crate::kernel::StockKernel;
use crate::packages::busybox;
use crate::workspace;
use firmware::Firmware;
use payloads::Payloads;

const LAYOUTS: [&str; 2] = ["crosvm", "virt"];
const CPUS: [u64; 2] = [1, 2];
/// MiB: one that is small, one that needs more than 32 address bits in both layouts.
const MEMORIES: [u64; 2] = [256, 5120];

/// The files that the tests need, beside the host.
pub struct Files {
    carpel: PathBuf,
    stock: PathBuf,
    firmware: Option<Firmware>,
    payloads: Payloads,
    scratch: TempDir,
}

impl Files {
    /// Builds carpel, gets the kernel and the firmware, and packs the initrd.
    pub fn obtain(arch: &'static Architecture) -> Result<Self> {
        let scratch = tempfile::tempdir().context("Creating a directory for the initrd")?;
        let (busybox, stock) = (busybox(arch)?, StockKernel::obtain(arch)?);
        write_initrd(&scratch.path().join("guest.cpio"), &busybox, None)?;
        virtio::write_files(arch, scratch.path(), &busybox, &stock)?;
        let firmware = || Firmware::obtain(scratch.path(), &stock.image, &scratch.path().join("guest.cpio"));
        let firmware = runs_firmware(arch).then(firmware).transpose()?;
        Ok(Self {
            carpel: workspace::carpel(arch)?,
            stock: stock.image,
            firmware,
            payloads: Payloads::obtain()?,
            scratch,
        })
    }

    /// Puts them into the host, under the names that the steps use.
    pub fn give(&self, host: &mut Host) {
        host.file("carpel", &self.carpel).file("Image", &self.stock);
        for file in ["guest.cpio"].iter().chain(&virtio::FILES) {
            host.file(file, &self.scratch.path().join(file));
        }
        self.payloads.give(host);
        if let Some(firmware) = &self.firmware {
            firmware.give(host);
        }
    }
}

/// The boot tests: the stock kernel in every combination of layout, vCPUs and memory, or in four that have every pair of values.
/// `mapper` is a carpel of this machine, to print maps with.
pub fn steps(arch: &'static Architecture, mapper: &Path, all: bool) -> Vec<Step> {
    let rows = (0..8).map(|n| (n & 1, n >> 1 & 1, n >> 2));
    let wanted = rows.filter(|(layout, cpus, memory)| all || layout ^ cpus == *memory);
    let machines = wanted.map(|(layout, cpus, memory)| boot(arch, layout, cpus, memory).step(mapper.to_owned()));
    let mut steps: Vec<_> = payloads::steps(arch).chain(machines).collect();
    // A guest with every device takes minutes.
    let layouts = LAYOUTS.into_iter().filter(|layout| all || (*layout == "virt" && runs_firmware(arch)));
    steps.extend(layouts.map(|layout| virtio::together(arch, "Image", layout)));
    if runs_firmware(arch) {
        steps.extend(firmware::steps());
    }
    steps
}

fn boot(arch: &'static Architecture, layout: usize, cpus: usize, memory: usize) -> Boot {
    // Either end is PSCI's.
    let finish = if cpus == 0 { "poweroff" } else { "reboot" };
    Boot { arch, kernel: "Image", layout: LAYOUTS[layout], cpus: CPUS[cpus], memory: MEMORIES[memory], finish }
}

/// In one of the hosts: to firmware that only polls, its interrupt controller makes no difference.
fn runs_firmware(arch: &Architecture) -> bool {
    arch.gic == Some(3)
}
