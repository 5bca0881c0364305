//! The boot tests of aarch64: the stock kernel in every layout, on hosts with either interrupt controller.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::machine::Boot;
use super::virtio;
use crate::arch::{Architecture, native};
use crate::guest::write_initrd;
use crate::host::{Host, Step};
use crate::kernel::StockKernel;
use crate::packages::busybox;
use crate::workspace;

const LAYOUTS: [&str; 2] = ["crosvm", "virt"];
const CPUS: [u64; 2] = [1, 2];
/// MiB: one that is small, one that needs more than 32 address bits in both layouts.
const MEMORIES: [u64; 2] = [256, 5120];

/// The files that the tests need, beside the host.
pub struct Files {
    arch: &'static Architecture,
    carpel: PathBuf,
    /// The carpel of this machine, to print maps with.
    mapper: PathBuf,
    stock: PathBuf,
    scratch: TempDir,
}

impl Files {
    /// Builds carpel, gets the kernel, and packs the initrd.
    pub fn obtain(arch: &'static Architecture) -> Result<Self> {
        let scratch = tempfile::tempdir().context("Creating a directory for the initrd")?;
        let (busybox, stock) = (busybox(arch)?, StockKernel::obtain(arch)?);
        write_initrd(&scratch.path().join("guest.cpio"), &busybox, None)?;
        virtio::write_initrd(&scratch.path().join("virtio.cpio"), &busybox, &stock)?;
        Ok(Self {
            arch,
            carpel: workspace::carpel(arch)?,
            mapper: workspace::carpel(native()?)?,
            stock: stock.image,
            scratch,
        })
    }

    /// Puts them into the host, under the names that the steps use.
    pub fn give(&self, host: &mut Host) {
        host.file("carpel", &self.carpel).file("Image", &self.stock);
        for file in ["guest.cpio", "virtio.cpio"] {
            host.file(file, &self.scratch.path().join(file));
        }
    }

    /// The stock kernel in every combination of layout, vCPUs and memory, or in four that have every pair of values.
    pub fn steps(&self, all: bool) -> Vec<Step> {
        let rows = (0..8).map(|n| (n & 1, n >> 1 & 1, n >> 2));
        let wanted = rows.filter(|(layout, cpus, memory)| all || layout ^ cpus == *memory);
        let machines = wanted.map(|(layout, cpus, memory)| self.boot(layout, cpus, memory).step(self.mapper.clone()));
        machines.chain(LAYOUTS.map(|layout| virtio::together(self.arch, "Image", layout))).collect()
    }

    fn boot(&self, layout: usize, cpus: usize, memory: usize) -> Boot {
        // Either end is PSCI's.
        let finish = if cpus == 0 { "poweroff" } else { "reboot" };
        let (layout, cpus, memory) = (LAYOUTS[layout], CPUS[cpus], MEMORIES[memory]);
        Boot { arch: self.arch, kernel: "Image", layout, cpus, memory, finish }
    }
}
