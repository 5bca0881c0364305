//! The boot tests of aarch64: the stock kernel in every layout, on hosts with either interrupt controller, and firmware.

mod firmware;
mod payloads;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::machine::Boot;
use super::{ended_with, step, virtio};
use crate::arch::Architecture;
use crate::guest::write_initrd;
use crate::host::{Check, Host, Step};
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
    testbed: Option<PathBuf>,
    scratch: TempDir,
}

impl Files {
    /// Builds carpel, gets the kernel and the firmware, and packs the initrd.
    pub fn obtain(arch: &'static Architecture, all: bool) -> Result<Self> {
        // Installs the compiler that others below need.
        let carpel = workspace::carpel(arch)?;
        let scratch = tempfile::tempdir().context("Creating a directory for the initrd")?;
        let (busybox, stock) = (busybox(arch)?, StockKernel::obtain(arch)?);
        write_initrd(&scratch.path().join("guest.cpio"), &busybox, None)?;
        virtio::write_files(arch, scratch.path(), &busybox, &stock)?;
        let firmware = || Firmware::obtain(scratch.path(), &stock.image, &scratch.path().join("guest.cpio"));
        let firmware = has_gicv3(arch).then(firmware).transpose()?;
        let testbed = (all && has_gicv3(arch)).then(|| workspace::testbed(arch)).transpose()?;
        Ok(Self { carpel, stock: stock.image, firmware, payloads: Payloads::obtain()?, testbed, scratch })
    }
}

impl super::Files for Files {
    fn give(&self, host: &mut Host) {
        host.file("carpel", &self.carpel).file("Image", &self.stock);
        for file in ["guest.cpio"].iter().chain(&virtio::FILES) {
            host.file(file, &self.scratch.path().join(file));
        }
        self.payloads.give(host);
        if let Some(firmware) = &self.firmware {
            firmware.give(host);
        }
        if let Some(testbed) = &self.testbed {
            host.file("testbed", testbed);
        }
    }
}

/// The boot tests: the stock kernel in every combination of layout, vCPUs and memory, or in four that have every pair of values; of these,
/// those with two vCPUs in the host with a GICv2, where they differ most. `mapper` is a carpel of this machine, to print maps with.
pub fn steps(arch: &'static Architecture, mapper: &Path, all: bool) -> Vec<Step> {
    let rows = (0..8).map(|n| (n & 1, n >> 1 & 1, n >> 2));
    let is_wanted = |(layout, cpus, memory)| layout ^ cpus == memory && (cpus == 1 || has_gicv3(arch));
    let wanted = rows.filter(|row| all || is_wanted(*row));
    let machines = wanted.map(|(layout, cpus, memory)| boot(arch, layout, cpus, memory).step(mapper.to_owned()));
    let mut steps: Vec<_> = payloads::steps(arch).chain(machines).collect();
    // A guest with every device takes minutes.
    let layouts = LAYOUTS.into_iter().filter(|layout| all || (*layout == "virt" && has_gicv3(arch)));
    steps.extend(layouts.map(|layout| virtio::together(arch, "Image", layout)));
    if has_gicv3(arch) {
        steps.extend(firmware::steps());
    }
    if all && has_gicv3(arch) {
        steps.push(demonstration());
    }
    steps
}

/// The testbed itself on a machine of this architecture, where it must choose that machine's own /dev/kvm.
fn demonstration() -> Step {
    let script = "mkdir prepared\n\
                  ln -s ../carpel prepared/carpel\n\
                  ln -s ../Image prepared/kernel\n\
                  ln -s ../guest.cpio prepared/initrd\n\
                  exec ./testbed demo --prepared prepared\n";
    let check: Check = Box::new(|output| {
        ended_with(output, 0)?;
        for text in ["host: this machine", "CPU implementer", "carpel's start to its end"] {
            ensure!(output.text.contains(text), "It did not say {text:?}");
        }
        Ok(())
    });
    step("the demonstration, by the testbed on the machine itself", script.to_owned(), check)
}

fn boot(arch: &'static Architecture, layout: usize, cpus: usize, memory: usize) -> Boot {
    // Either end is PSCI's.
    let finish = if cpus == 0 { "poweroff" } else { "reboot" };
    Boot { arch, kernel: "Image", layout: LAYOUTS[layout], cpus: CPUS[cpus], memory: MEMORIES[memory], finish }
}

/// Whether it is the host for what the interrupt controller makes no difference to, such as firmware that only polls.
fn has_gicv3(arch: &Architecture) -> bool {
    arch.gic == Some(3)
}
