//! What judging the console costs: CPU time for each byte and pattern, and how long a signal waits for it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::start::{children_cpu, milliseconds};
use super::table::{Table, cell, minimum};
use crate::payload;
use crate::say::Task;

/// Lengths of lines in KiB. The main thread judges them, as they are printed on `hvc0`.
const LINES: [u32; 4] = [1, 4, 64, 1024];
/// A pattern that is found nowhere.
const PATTERN: &str = "BUG:|WARNING:|Oops";
/// One whose automaton has a new state for nearly each letter of a text that never repeats.
const WIDE_PATTERN: &str = "[a-h].{0,1000}z";
/// What a guest prints at first, in KiB, and at most: as much as shows.
const KIB: (u32, u32) = (256, 16 << 10);
/// So much CPU time is told from the guest's own.
const SHOWS: f64 = 300.0;
/// How long a guest floods before the signal.
const FLOOD: Duration = Duration::from_secs(2);

/// Measures both in turn.
pub fn measure(carpel: &Path, before: Option<&Path>, runs: usize) -> Result<()> {
    let programs: Vec<_> = before.into_iter().map(|path| ("before", path)).chain([("carpel", carpel)]).collect();
    let names = programs.iter().map(|(name, _)| *name);
    let headings: Vec<_> = ["median / minimum"].into_iter().chain(names).collect();
    let mut table = Table::new(&headings);
    let task = Task::start(format!("{runs} runs of each"));
    for kib in LINES {
        let columns = each(&programs, runs, |program| cost(program, kib))?;
        table.row([format!("lines of {kib} KiB: ns for a byte and pattern")].into_iter().chain(columns));
    }
    for (name, pattern) in [("a pattern", PATTERN), ("a wide pattern", WIDE_PATTERN)] {
        let columns = each(&programs, runs.min(3), |program| signal(program, pattern))?;
        table.row([format!("SIGTERM in a flood of one line, {name}: ms to the end")].into_iter().chain(columns));
    }
    task.done();
    table.print();
    Ok(())
}

fn each(programs: &[(&str, &Path)], runs: usize, measure: impl Fn(&Path) -> Result<f64>) -> Result<Vec<String>> {
    let mut values = vec![Vec::new(); programs.len()];
    for _ in 0..runs {
        for ((_, program), values) in programs.iter().zip(&mut values) {
            values.push(measure(program)?);
        }
    }
    Ok(values.iter().map(|values| cell(values)).collect())
}

/// CPU time for a byte in nanoseconds: what a guest takes with a pattern beyond what it takes without.
fn cost(program: &Path, line: u32) -> Result<f64> {
    let (mut kib, most) = KIB;
    kib = kib.max(line);
    loop {
        let time = |patterns: &[&str]| -> Result<f64> {
            let options = format!("do=lines size={} kib={kib}", line << 10);
            let cpu = children_cpu()?;
            let status = start(program, &options, patterns)?.wait()?;
            ensure!(status.success(), "{} ended with {status}", program.display());
            Ok(milliseconds(children_cpu()?.checked_sub(cpu).context("CPU time went backwards")?))
        };
        let plain = minimum(&[time(&[])?, time(&[])?]);
        let extra = time(&["--fail-on", PATTERN])? - plain;
        if extra >= SHOWS || kib >= most {
            return Ok(extra * 1e6 / f64::from(kib << 10));
        }
        kib *= 4;
    }
}

/// From SIGTERM to the end, in milliseconds.
fn signal(program: &Path, pattern: &str) -> Result<f64> {
    let mut child = start(program, "do=flood line=1", &["--fail-on", pattern])?;
    thread::sleep(FLOOD);
    let sent = Instant::now();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    child.wait()?;
    Ok(milliseconds(sent.elapsed()))
}

fn start(program: &Path, options: &str, patterns: &[&str]) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(["run", "--console", "null", "--announce", "cmdline", "-a", options, "-k"]);
    command.arg(payload::path("console")).args(patterns).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null()).spawn().with_context(|| format!("Starting {}", program.display()))
}
