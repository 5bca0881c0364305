//! How long a monitor takes to start a guest, and to end with it.

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::monitor::{Guest, Monitor, one_byte};
use super::table::{Table, cell, median, ratio};
use crate::say::Task;

/// Guest memory for all that does not compare sizes, in MiB: as in the project's earlier measurements of peers.
pub const MIB: u64 = 128;
/// Sizes of guest memory that are compared, in MiB.
const SIZES: [u64; 4] = [128, 1 << 10, 4 << 10, 64 << 10];

/// Milliseconds of the runs of one monitor.
#[derive(Default)]
struct Times {
    byte: Vec<f64>,
    exit: Vec<f64>,
    cpu: Vec<f64>,
}

/// Starts the monitors in turn, so that what disturbs one disturbs all.
pub fn measure(monitors: &[&Monitor], runs: usize) -> Result<()> {
    let task = Task::start(format!("{runs} starts of each"));
    let times = alternate(monitors, &one_byte(MIB), runs)?;
    task.done();
    let mut table = Table::new(&[
        "ms: median / minimum",
        "exec to first byte",
        "ratio",
        "exec to exit",
        "ratio",
        "CPU time",
        "ratio",
    ]);
    for (monitor, of) in monitors.iter().zip(&times) {
        let base = &times[0];
        let columns = [(&of.byte, &base.byte), (&of.exit, &base.exit), (&of.cpu, &base.cpu)];
        let cells = columns.iter().flat_map(|(of, base)| [cell(of), format!("{:.2}", ratio(of, base))]);
        table.row([monitor.name.to_owned()].into_iter().chain(cells));
    }
    table.print();
    Ok(())
}

/// What the size of the guest's memory costs.
pub fn measure_sizes(floor: &Monitor, carpel: &Monitor, runs: usize) -> Result<()> {
    let mut table = Table::new(&["memory", "floor: exec to exit, ms", "carpel", "ratio", "excess over the floor"]);
    let task = Task::start(format!("{runs} starts of each with each size of memory"));
    for mib in SIZES {
        let [of_floor, of_carpel]: [Times; 2] =
            alternate(&[floor, carpel], &one_byte(mib), runs)?.try_into().ok().context("Two monitors, two results")?;
        let excess: Vec<_> = of_carpel.exit.iter().zip(&of_floor.exit).map(|(of, base)| of - base).collect();
        table.row([
            if mib < 1024 { format!("{mib} MiB") } else { format!("{} GiB", mib / 1024) },
            cell(&of_floor.exit),
            cell(&of_carpel.exit),
            format!("{:.2}", ratio(&of_carpel.exit, &of_floor.exit)),
            format!("{:.2}", median(&excess)),
        ]);
    }
    task.done();
    table.print();
    Ok(())
}

fn alternate(monitors: &[&Monitor], guest: &Guest, runs: usize) -> Result<Vec<Times>> {
    let mut times: Vec<Times> = monitors.iter().map(|_| Times::default()).collect();
    // The first round reads the programs from disk and does not count.
    for round in 0..=runs {
        for (monitor, times) in monitors.iter().zip(&mut times) {
            let (byte, exit, cpu) = once(monitor, guest)?;
            if round > 0 {
                times.byte.push(milliseconds(byte));
                times.exit.push(milliseconds(exit));
                times.cpu.push(milliseconds(cpu));
            }
        }
    }
    Ok(times)
}

/// From the start to the first byte and to the end, and CPU time.
fn once(monitor: &Monitor, guest: &Guest) -> Result<(Duration, Duration, Duration)> {
    let mut command = monitor.command(guest)?;
    let cpu_before = children_cpu()?;
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("Starting {}", monitor.name))?;
    let mut stdout = child.stdout.take().context("A child without its output")?;
    let mut byte = [0];
    let printed = stdout.read(&mut byte)?;
    let to_byte = start.elapsed();
    let status = child.wait()?;
    let to_exit = start.elapsed();
    let cpu = children_cpu()?.checked_sub(cpu_before).context("CPU time went backwards")?;
    ensure!(printed == 1, "{} printed nothing", monitor.name);
    if !status.success() {
        bail!("{} ended with {status}", monitor.name);
    }
    Ok((to_byte, to_exit, cpu))
}

/// CPU time of all children that ended.
pub fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds)?))
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
