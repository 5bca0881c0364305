//! The benchmark: carpel against the least that can be done, and against its peers, in one run. It prints Markdown for
//! docs/performance.md; what its columns mean stands there.

mod console;
mod devices;
mod exits;
mod linux;
mod memory;
mod monitor;
mod start;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::arch;
use crate::say::heading;
use crate::workspace;
use monitor::Monitor;
use table::Table;

/// What to measure, and how often.
pub struct Wanted {
    /// Only this part.
    pub only: Option<Part>,
    /// How often each monitor starts.
    pub runs: usize,
    /// An earlier carpel to compare with.
    pub before: Option<PathBuf>,
}

/// Where to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Test guests on this machine's own /dev/kvm.
    Payloads,
    /// Judging the console, on this machine's own /dev/kvm.
    Console,
    /// The stock kernel, in a host that can run it.
    Linux,
    /// Its devices, there.
    Devices,
}

/// Measures, and prints the tables.
pub fn run(wanted: &Wanted) -> Result<()> {
    // The one architecture that the tables are for.
    let arch = &arch::X86_64_NESTED_PAGING;
    ensure!(arch.is_native(), "The benchmark knows the monitors and guests of {} only", arch.name);
    heading("carpel, built for release");
    let carpel = workspace::carpel(arch)?;
    let wants = |part| wanted.only.is_none_or(|only| only == part);
    if wants(Part::Payloads) {
        payloads(&carpel, wanted.runs)?;
    }
    if wants(Part::Console) {
        heading(format!("Judging the console; {}", load()?));
        console::measure(&carpel, wanted.before.as_deref(), wanted.runs.div_ceil(8))?;
    }
    if wants(Part::Linux) {
        linux::measure(arch, &carpel)?;
    }
    if wants(Part::Devices) {
        devices::measure(arch, &carpel)?;
    }
    Ok(())
}

fn payloads(carpel: &Path, runs: usize) -> Result<()> {
    let [floor, carpel, alioth] = [Monitor::floor(), Monitor::carpel(carpel), Monitor::alioth()];
    heading(format!("Test guests on this machine's /dev/kvm; {}", load()?));
    let mut monitors = vec![&floor, &carpel];
    if alioth.is_installed() {
        monitors.push(&alioth);
    } else {
        println!("   alioth is not installed (cargo install alioth-cli): it is left out");
    }
    start::measure(&monitors, runs)?;
    start::measure_sizes(&floor, &carpel, runs.div_ceil(4))?;
    exits::measure(&floor, &carpel, runs.div_ceil(2))?;
    memory::measure(&[&floor, &carpel])?;
    sizes(&monitors)
}

fn sizes(monitors: &[&Monitor]) -> Result<()> {
    let mut table = Table::new(&["", "size of the binary, KiB"]);
    for monitor in monitors {
        let file = monitor.file().with_context(|| format!("{} is nowhere", monitor.name))?;
        let length = fs::metadata(&file).with_context(|| format!("Reading {}", file.display()))?.len();
        table.row([monitor.name.to_owned(), (length / 1024).to_string()]);
    }
    table.print();
    Ok(())
}

/// How busy the machine is: ratios bear it, minima better than medians, times not.
fn load() -> Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("Reading /proc/loadavg")?;
    let load = text.split(' ').next().unwrap_or_default();
    let cpus = std::thread::available_parallelism()?;
    Ok(format!("load {load} on {cpus} CPUs"))
}
