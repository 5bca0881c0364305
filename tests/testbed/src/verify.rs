//! All that must hold before a change lands, in the order in which it fails fastest.

use std::time::Instant;

use anyhow::{Result, bail, ensure};

use crate::arch::{self, AARCH64, AARCH64_GICV2, Architecture};
use crate::boot::{self, Files};
use crate::command::run as run_command;
use crate::host::{Echo, Host, Origin, Step};
use crate::packages::{KERNEL_BUILD, TESTS, install};
use crate::say::{heading, seconds};
use crate::workspace::cargo;

/// How many checks passed, and the names of those that did not.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    fn count(&mut self, name: &str, verdict: Result<()>) {
        match verdict {
            Ok(()) => self.passed += 1,
            Err(err) => {
                println!("   FAIL  {name}: {err:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Runs `check` under its own heading, and shows its time.
    fn section(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        heading(name);
        let started = Instant::now();
        let verdict = check();
        self.count(name, verdict);
        println!("   {name}: {}", seconds(started.elapsed()));
    }
}

/// What to check, and how to show it.
pub struct Wanted {
    /// Boot the stock kernel in every combination instead of every pair.
    pub full: bool,
    /// Only the boot tests whose names contain this.
    pub only: Option<String>,
    /// The QEMU of the emulated x86-64 host, where it is not to be the best one.
    pub qemu: Option<Origin>,
    /// Show all that hosts and guests print.
    pub verbose: bool,
}

/// Runs the checks.
pub fn run(wanted: &Wanted) -> Result<()> {
    let started = Instant::now();
    let mut tally = Tally::default();
    if wanted.only.is_none() {
        workspace_checks(&mut tally);
    }
    heading("boot tests");
    let boots = Instant::now();
    if let Err(err) = boot_tests(wanted, &mut tally) {
        tally.count("boot tests", Err(err));
    }
    println!("   boot tests: {}", seconds(boots.elapsed()));

    heading(format!("verify: {}", seconds(started.elapsed())));
    for name in &tally.failed {
        println!("   failed: {name}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed.len());
    if tally.failed.is_empty() { Ok(()) } else { bail!("Not everything passed") }
}

fn workspace_checks(tally: &mut Tally) {
    tally.section("packages", || install(&[TESTS, KERNEL_BUILD, AARCH64.cross].concat()));
    tally.section("formatting", || run_command(cargo().args(["fmt", "--all", "--check"])));
    tally.section("clippy", || {
        run_command(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    tally.section("unit, property, command line and payload tests", || {
        run_command(cargo().args(["test", "--workspace", "--no-fail-fast"]))
    });
    tally.section("documentation", || {
        run_command(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
}

fn boot_tests(wanted: &Wanted, tally: &mut Tally) -> Result<()> {
    let native = arch::native()?;
    let files = Files::obtain(native)?;
    let mut found = run_steps(native, wanted, tally, files.steps(wanted.full), |host| {
        files.give(host);
        Ok(())
    })?;
    for arch in [&AARCH64, &AARCH64_GICV2] {
        let steps = boot::aarch64::steps(arch, &files.carpel, wanted.full);
        found |= run_steps(arch, wanted, tally, steps, |host| {
            let files = boot::aarch64::Files::obtain(arch)?;
            files.give(host);
            Ok(files)
        })?;
    }
    ensure!(found, "No boot test has {:?} in its name", wanted.only.as_deref().unwrap_or_default());
    Ok(())
}

/// Runs the wanted ones of these steps in a host of their own; whether there are any. `prepare` gets what they need, gives it to
/// the host, and returns what must stay as long as the host.
fn run_steps<T>(
    arch: &'static Architecture,
    wanted: &Wanted,
    tally: &mut Tally,
    mut steps: Vec<Step>,
    prepare: impl FnOnce(&mut Host) -> Result<T>,
) -> Result<bool> {
    if let Some(part) = &wanted.only {
        steps.retain(|step| format!("{}: {}", arch.host, step.name).contains(part));
    }
    if steps.is_empty() {
        return Ok(false);
    }
    let mut host = Host::choose(arch, if wanted.verbose { Echo::Everything } else { Echo::Nothing }, wanted.qemu)?;
    let _prepared = prepare(&mut host)?;
    for outcome in host.run(&steps)? {
        // The host has printed each outcome as it came.
        match outcome.verdict {
            Ok(()) => tally.passed += 1,
            Err(_) => tally.failed.push(outcome.name),
        }
    }
    println!("   {} host boots, {} of them lost and retried", host.boots(), host.lost().len());
    Ok(true)
}
