//! How sound emulated hosts are: the same guests with several vCPUs in many boots of each, counted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::arch::X86_64;
use crate::boot::ended_with;
use crate::guest::{said, write_initrd};
use crate::host::{Check, Echo, Host, Qemu, Step};
use crate::kernel::StockKernel;
use crate::packages::busybox;
use crate::say::{heading, seconds};
use crate::workspace;

/// vCPUs and MiB of the guests of each boot.
const GUESTS: [(u64, u64); 3] = [(2, 256), (4, 1024), (4, 6144)];
const LIMIT: Duration = Duration::from_mins(3);

/// What came of a kind of host's guests.
#[derive(Default)]
struct Counts {
    guests: usize,
    failed: usize,
    time: Duration,
}

/// Boots each kind of x86-64 host `boots` times, in turns so that what else the machine does disturbs them alike; prints a table for
/// docs/testing.md.
pub fn run(boots: usize) -> Result<()> {
    let arch = &X86_64;
    ensure!(arch.is_native(), "Only the emulated hosts of x86-64 machines are of several kinds");
    heading("carpel, built for release");
    let carpel = workspace::carpel(arch)?;
    let stock = StockKernel::obtain(arch)?;
    let scratch = tempfile::tempdir().context("Creating a directory for the initrd")?;
    let initrd = scratch.path().join("guest.cpio");
    write_initrd(&initrd, &busybox(arch)?, None)?;
    let mut kinds = Vec::new();
    for &origin in Qemu::all(arch) {
        let mut host = Host::emulated(arch, Echo::Nothing, Some(origin))?;
        host.file("carpel", &carpel).file("bzImage", &stock.image).file("guest.cpio", &initrd);
        kinds.push((host, Counts::default()));
    }
    for turn in 1..=boots {
        heading(format!("Turn {turn} of {boots}"));
        for (host, counts) in &mut kinds {
            println!("   {}", host.describe());
            counts.add(host)?;
        }
        print(&kinds);
    }
    Ok(())
}

impl Counts {
    /// Runs the guests in a host.
    fn add(&mut self, host: &mut Host) -> Result<()> {
        let started = Instant::now();
        for outcome in host.run(&GUESTS.map(|(cpus, memory)| step(cpus, memory)))? {
            self.guests += 1;
            self.failed += usize::from(outcome.verdict.is_err());
        }
        self.time += started.elapsed();
        Ok(())
    }
}

fn print(kinds: &[(Host, Counts)]) {
    println!(
        "\n| host | boots | hosts lost | guests run | guests lost with their host twice, or failed \
         | mean time of a boot |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for (host, Counts { guests, failed, time }) in kinds {
        let (name, boots, lost) = (host.describe(), host.boots(), host.lost().len());
        let mean = seconds(*time / u32::try_from(boots).unwrap_or(1).max(1));
        println!("| {name} | {boots} | {lost} | {guests} | {failed} | {mean} |");
    }
    for lost in kinds.iter().flat_map(|(host, _)| host.lost()) {
        println!("   lost: {lost}");
    }
}

/// A guest that counts its CPUs and powers off.
fn step(cpus: u64, memory: u64) -> Step {
    let script =
        format!("exec ./carpel run -k bzImage -i guest.cpio -c {cpus} -m {memory}M -a '{}'", X86_64.guest_append);
    let check: Check = Box::new(move |guest| {
        ended_with(guest, 0)?;
        let seen: Vec<_> = said(&guest.text, "cpus").collect();
        ensure!(seen == [cpus.to_string()], "The guest says {seen:?} for its CPUs");
        Ok(())
    });
    Step { name: format!("{cpus} vCPU, {memory} MiB"), script, limit: LIMIT, guests: 1, check }
}
