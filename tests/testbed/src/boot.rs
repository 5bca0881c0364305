//! The boot tests: real kernels under carpel, in a host.

pub mod aarch64;
mod bios;
mod ending;
mod machine;
mod virtio;
mod ways;

use std::fs::{self, File};
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
use crate::packages::{busybox, install};
use crate::tiny::TinyKernel;
use crate::workspace;

/// A guest boots in 5 s in an emulated host on an idle machine, and in a minute on a busy one.
const LIMIT: Duration = Duration::from_mins(3);
/// Kernel parameters of every x86-64 guest.
const APPEND: &str = X86_64.guest_append;
/// Size of the initrd that must arrive whole: more than lies between where a kernel is loaded and where it runs.
const BLOB: u64 = 40 << 20;
/// The file that has the MD5 sum of what fills it.
const BLOB_SUM: &str = "big.md5";

/// The files that a host's boot tests need, which stay as long as this.
pub trait Files: Send {
    /// Puts them into the host, under the names that the steps use.
    fn give(&self, host: &mut Host);
}

/// The boot tests of a kind of host: all of them, or without those of a single device, and of the stock kernel's machines those that
/// cover every pair of properties. `mapper` is a carpel of this machine, to print maps with.
pub fn steps(arch: &'static Architecture, mapper: &Path, all: bool) -> Vec<Step> {
    if arch.name == X86_64.name { steps_of_pc(mapper, all) } else { aarch64::steps(arch, mapper, all) }
}

/// Builds and gets what these steps need.
pub fn files(arch: &'static Architecture, all: bool) -> Result<Box<dyn Files>> {
    install(&["zstd"])?;
    Ok(if arch.name == X86_64.name {
        Box::new(PcFiles::obtain(arch)?)
    } else {
        Box::new(aarch64::Files::obtain(arch, all)?)
    })
}

struct PcFiles {
    carpel: PathBuf,
    stock: PathBuf,
    vmlinux: PathBuf,
    tiny: TinyKernel,
    scratch: TempDir,
    firmware: Vec<(&'static str, PathBuf)>,
}

/// What a PC's steps have from the directory of its files.
const SCRATCH: [&str; 4] = ["guest.cpio", "big.cpio", "vmlinux.gz", "bzImage.zst"];

impl PcFiles {
    /// Builds carpel, gets or builds the kernels, and packs the initrds.
    fn obtain(arch: &'static Architecture) -> Result<Self> {
        let carpel = workspace::carpel(arch)?;
        let stock = StockKernel::obtain(arch)?;
        let tiny = TinyKernel::obtain(arch)?;
        let scratch = tempfile::tempdir().context("Creating a directory for initrds")?;
        let busybox = busybox(arch)?;
        let blob = scratch.path().join("blob");
        io::copy(&mut File::open("/dev/urandom")?.take(BLOB), &mut File::create(&blob)?)
            .context("Writing random bytes")?;
        fs::write(scratch.path().join(BLOB_SUM), md5(&blob)?)?;
        write_initrd(&scratch.path().join("guest.cpio"), &busybox, None)?;
        write_initrd(&scratch.path().join("big.cpio"), &busybox, Some(&blob))?;
        virtio::write_files(arch, scratch.path(), &busybox, &stock)?;
        if bios::makes_disks() {
            bios::write_disk(&scratch.path().join(bios::DISK), &stock.image, &scratch.path().join("guest.cpio"))?;
        }
        let vmlinux = stock.vmlinux()?;
        pack("gzip", &vmlinux, &scratch.path().join("vmlinux.gz"))?;
        pack("zstd", &stock.image, &scratch.path().join("bzImage.zst"))?;
        Ok(Self { carpel, vmlinux, stock: stock.image, tiny, scratch, firmware: bios::images()? })
    }
}

impl Files for PcFiles {
    fn give(&self, host: &mut Host) {
        host.file("carpel", &self.carpel).file("bzImage", &self.stock).file("vmlinux", &self.vmlinux);
        host.file("tiny", &self.tiny.image);
        for (name, image) in &self.firmware {
            host.file(name, image);
        }
        let disk = bios::makes_disks().then_some(bios::DISK);
        for file in SCRATCH.iter().chain(&[BLOB_SUM]).chain(&disk).chain(&virtio::FILES) {
            host.file(file, &self.scratch.path().join(file));
        }
    }
}

fn steps_of_pc(mapper: &Path, all: bool) -> Vec<Step> {
    let mut steps = machine::steps(mapper, all);
    steps.push(big_initrd());
    steps.extend(ending::steps());
    steps.extend(ways::steps());
    // Its boot record is installed by a program that Debian has for PCs only.
    if bios::makes_disks() {
        steps.push(bios::boots_a_disk());
    }
    steps.push(bios::starts_a_kernel());
    // Half a minute each; the guest with all of them checks the same.
    if all {
        steps.extend(virtio::each(&X86_64, "bzImage"));
    }
    steps.push(virtio::together(&X86_64, "vmlinux", "crosvm"));
    steps
}

fn big_initrd() -> Step {
    let check: Check = Box::new(|output| {
        ended_with(output, 0)?;
        let (sum, blob) = (said(&output.text, "sum").next(), said(&output.text, "blob").next());
        let (sum, blob) =
            (sum.context("The host did not say its sum")?, blob.context("The guest did not say its sum")?);
        ensure!(blob == format!("{sum}  -"), "The initrd did not arrive whole: {blob:?} in place of {sum}");
        Ok(())
    });
    let run = carpel(&format!("-k bzImage -i big.cpio -a '{APPEND}'"));
    step("initrd of 40 MiB", format!("echo \"guest: sum $(cat {BLOB_SUM})\"\n{run}"), check)
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
