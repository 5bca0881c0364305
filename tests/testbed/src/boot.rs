//! The boot tests: real kernels under carpel, in a host.

pub mod aarch64;
mod bios;
mod ending;
mod machine;
mod virtio;
mod ways;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::arch::{Architecture, X86_64};
use crate::command::md5;
use crate::guest::{said, write_initrd};
use crate::host::{Check, Host, Output, Step};
use crate::kernel::StockKernel;
use crate::packages::busybox;
use crate::tiny::TinyKernel;
use crate::workspace;

/// A guest boots in 5 s in an emulated host on an idle machine, and in a minute on a busy one.
const LIMIT: Duration = Duration::from_mins(3);
/// Kernel parameters of every x86-64 guest.
const APPEND: &str = X86_64.guest_append;
/// Size of the initrd that must arrive whole: more than lies between where a kernel is loaded and where it runs.
const BLOB: u64 = 40 << 20;

/// The files that boot tests need, beside the host.
pub struct Files {
    /// A carpel that runs on this machine.
    pub carpel: PathBuf,
    stock: PathBuf,
    vmlinux: PathBuf,
    tiny: TinyKernel,
    scratch: TempDir,
    blob_md5: String,
    firmware: Vec<(&'static str, PathBuf)>,
}

impl Files {
    /// Builds carpel, gets or builds the kernels, and packs the initrds.
    pub fn obtain(arch: &'static Architecture) -> Result<Self> {
        let carpel = workspace::carpel(arch)?;
        let stock = StockKernel::obtain(arch)?;
        let tiny = TinyKernel::obtain(arch)?;
        let scratch = tempfile::tempdir().context("Creating a directory for initrds")?;
        let busybox = busybox(arch)?;
        let blob = scratch.path().join("blob");
        io::copy(&mut File::open("/dev/urandom")?.take(BLOB), &mut File::create(&blob)?)
            .context("Writing random bytes")?;
        write_initrd(&scratch.path().join("guest.cpio"), &busybox, None)?;
        write_initrd(&scratch.path().join("big.cpio"), &busybox, Some(&blob))?;
        virtio::write_files(arch, scratch.path(), &busybox, &stock)?;
        bios::write_disk(&scratch.path().join("bios-disk"), &stock.image, &scratch.path().join("guest.cpio"))?;
        let vmlinux = stock.vmlinux()?;
        pack("gzip", &vmlinux, &scratch.path().join("vmlinux.gz"))?;
        pack("zstd", &stock.image, &scratch.path().join("bzImage.zst"))?;
        Ok(Self {
            carpel,
            vmlinux,
            stock: stock.image,
            tiny,
            blob_md5: md5(&blob)?,
            scratch,
            firmware: bios::images()?,
        })
    }

    /// Puts them into the host, under the names that the steps use.
    pub fn give(&self, host: &mut Host) {
        host.file("carpel", &self.carpel).file("bzImage", &self.stock).file("vmlinux", &self.vmlinux);
        host.file("tiny", &self.tiny.image);
        for (name, image) in &self.firmware {
            host.file(name, image);
        }
        for file in ["guest.cpio", "big.cpio", "vmlinux.gz", "bzImage.zst", "bios-disk"].iter().chain(&virtio::FILES) {
            host.file(file, &self.scratch.path().join(file));
        }
    }

    /// The boot tests: all of them, or without those of a single device, and of the stock kernel's machines those that cover every pair
    /// of properties.
    pub fn steps(&self, all: bool) -> Vec<Step> {
        let mut steps = machine::steps(&self.carpel, all);
        steps.push(self.big_initrd());
        steps.extend(ending::steps());
        steps.extend(ways::steps());
        steps.push(bios::boots_a_disk());
        steps.push(bios::starts_a_kernel());
        // Half a minute each; the guest with all of them checks the same.
        if all {
            steps.extend(virtio::each(&X86_64, "bzImage"));
        }
        steps.push(virtio::together(&X86_64, "vmlinux", "crosvm"));
        steps
    }

    fn big_initrd(&self) -> Step {
        let expected = format!("{}  -", self.blob_md5);
        let check: Check = Box::new(move |output| {
            ended_with(output, 0)?;
            ensure!(said(&output.text, "blob").eq([expected.as_str()]), "The initrd did not arrive whole");
            Ok(())
        });
        step("initrd of 40 MiB", carpel(&format!("-k bzImage -i big.cpio -a '{APPEND}'")), check)
    }
}

/// Writes what `program -1 -c` makes of `source` to `target`.
fn pack(program: &str, source: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["-1", "-c"]).arg(source).stdout(File::create(target)?);
    let status = command.status().with_context(|| format!("Starting {program}"))?;
    ensure!(status.success(), "{program} ended with {status}");
    Ok(())
}

/// A step that boots one guest.
fn step(name: &str, script: String, check: Check) -> Step {
    Step { name: name.to_owned(), script, limit: LIMIT, guests: 1, check }
}

/// The script that is one `carpel run`.
fn carpel(arguments: &str) -> String {
    format!("exec ./carpel run {arguments}")
}

/// The script ended with this status.
pub(crate) fn ended_with(output: &Output, status: i32) -> Result<()> {
    ensure!(output.status == status, "Its exit status is {}, not {status}", output.status);
    Ok(())
}
