//! All that must hold before a change lands, in the order in which it fails fastest. What boot tests need is built and downloaded
//! meanwhile.

mod parts;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::arch::{self, Architecture};
use crate::boot::{self, Files};
use crate::command::run as run_command;
use crate::host::{Echo, Host, Origin, Qemu, Step};
use crate::packages::{self, KERNEL_BUILD, TESTS, install};
use crate::say::{heading, seconds};
use crate::workspace::{self, cargo, cargo_with_signals};
use parts::{Part, Parts};

/// What a run that is not full may take on two quiet cores with an empty cache.
const BUDGET: Duration = Duration::from_mins(45);

/// How many checks passed, the names of those that did not, the hosts that were lost on the way, and the time that it took.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    boots: usize,
    lost: Vec<String>,
    parts: Parts,
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
        let (verdict, part) = Part::time(name, check);
        self.parts.add(part);
        self.count(name, verdict);
        println!("   {name}: {}", seconds(started.elapsed()));
    }
}

/// What to check, and how to show it.
pub struct Wanted {
    /// Boot the stock kernel in every combination instead of every pair, and in every kind of emulated host.
    pub full: bool,
    /// Only the boot tests whose names contain this.
    pub only: Option<String>,
    /// The QEMU of the emulated x86-64 host, where it is not to be the usual one.
    pub qemu: Option<Origin>,
    /// Show all that hosts and guests print.
    pub verbose: bool,
}

/// Runs the checks.
pub fn run(wanted: &Wanted) -> Result<()> {
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut hosts = arch::all()?;
    hosts.retain(|arch| !wanted.steps(arch, Path::new("carpel"), wanted.full).is_empty());
    ensure!(!hosts.is_empty(), "No boot test has {:?} in its name", wanted.only.as_deref().unwrap_or_default());
    if wanted.only.is_none() {
        tally.section("packages", || install_all(&hosts, wanted));
    }
    let prepared = prepare(hosts.clone(), wanted.full);
    if wanted.only.is_none() {
        workspace_checks(&mut tally);
    }
    heading("boot tests");
    if let Err(err) = boot_tests(&hosts, wanted, &prepared, &mut tally) {
        tally.count("boot tests", Err(err));
    }

    let took = started.elapsed();
    heading(format!("verify: {}", seconds(took)));
    if took > BUDGET && !wanted.full {
        println!("   over its budget of {} minutes", BUDGET.as_secs() / 60);
    }
    println!("{}", tally.parts.table());
    println!("{} host boots, {} of them lost", tally.boots, tally.lost.len());
    for lost in &tally.lost {
        println!("   lost: {lost}");
    }
    for name in &tally.failed {
        println!("   failed: {name}");
    }
    println!("{} passed, {} failed", tally.passed, tally.failed.len());
    if tally.failed.is_empty() { Ok(()) } else { bail!("Not everything passed") }
}

impl Wanted {
    /// The wanted ones of a host's steps.
    fn steps(&self, arch: &'static Architecture, mapper: &Path, all: bool) -> Vec<Step> {
        let mut steps = boot::steps(arch, mapper, all);
        if let Some(part) = &self.only {
            steps.retain(|step| format!("{}: {}", arch.host, step.name).contains(part));
        }
        steps
    }

    /// The QEMUs of the hosts that run a host's steps, one after the other; none where it does not matter.
    fn qemus(&self, arch: &Architecture) -> Vec<Option<Origin>> {
        match self.qemu {
            None if self.full => Qemu::all(arch).iter().copied().map(Some).collect(),
            asked => vec![asked],
        }
    }
}

/// Installs in one go what the checks need; the QEMU of each host may come from elsewhere.
fn install_all(hosts: &[&'static Architecture], wanted: &Wanted) -> Result<()> {
    let cross = hosts.iter().filter(|arch| !arch.is_native()).flat_map(|arch| arch.cross);
    install(&[TESTS, KERNEL_BUILD].concat().into_iter().chain(cross.copied()).collect::<Vec<_>>())?;
    // Lists that are missing are got here, where nobody else gets them.
    packages::candidate(packages::names()?.source)?;
    for arch in hosts.iter().filter(|arch| Host::needs_emulation(arch)) {
        wanted.qemus(arch).into_iter().try_for_each(|origin| Qemu::obtain(arch, origin).map(drop))?;
    }
    Ok(())
}

fn workspace_checks(tally: &mut Tally) {
    tally.section("formatting", || run_command(cargo().args(["fmt", "--all", "--check"])));
    tally.section("clippy", || {
        run_command(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    tally.section("unit, property, command line and payload tests", || {
        run_command(cargo_with_signals().args(["test", "--workspace", "--no-fail-fast"]))
    });
    tally.section("documentation", || {
        run_command(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
}

/// What the boot tests of a host need.
struct Prepared {
    /// A carpel of this machine.
    mapper: PathBuf,
    files: Box<dyn Files>,
}

/// Builds and gets what each of these hosts needs, in their order, beside whatever else runs.
fn prepare(hosts: Vec<&'static Architecture>, all: bool) -> Receiver<(Result<Prepared>, Part)> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for arch in hosts {
            let (prepared, part) = Part::time(format!("builds and downloads for {}", arch.host), || {
                let mapper = workspace::carpel(arch::native()?)?;
                Ok(Prepared { mapper, files: boot::files(arch, all)? })
            });
            // Nobody listens any more when the run has failed.
            if sender.send((prepared, part.beside_others())).is_err() {
                return;
            }
        }
    });
    receiver
}

fn boot_tests(
    hosts: &[&'static Architecture],
    wanted: &Wanted,
    prepared: &Receiver<(Result<Prepared>, Part)>,
    tally: &mut Tally,
) -> Result<()> {
    for arch in hosts {
        let (received, part) = Part::time(format!("waiting for what {} needs", arch.host), || prepared.recv());
        tally.parts.add(part);
        let (ready, part) = received.context("What builds for the boot tests stopped")?;
        tally.parts.add(part);
        let verdict = ready.and_then(|ready| boot_tests_of(arch, wanted, &ready, tally));
        if let Err(err) = verdict {
            tally.count(&format!("boot tests of {}", arch.host), Err(err));
        }
    }
    Ok(())
}

/// Runs the wanted steps of a host in each of its kinds: all that are wanted in the first, and those of a run that is not full in others.
fn boot_tests_of(arch: &'static Architecture, wanted: &Wanted, prepared: &Prepared, tally: &mut Tally) -> Result<()> {
    let kinds = if Host::needs_emulation(arch) { wanted.qemus(arch) } else { vec![None] };
    for (index, origin) in kinds.into_iter().enumerate() {
        let steps = wanted.steps(arch, &prepared.mapper, wanted.full && index == 0);
        let mut host = Host::choose(arch, if wanted.verbose { Echo::Everything } else { Echo::Nothing }, origin)?;
        prepared.files.give(&mut host);
        let (outcomes, part) = Part::time(format!("boots of {}", host.name()), || host.run(&steps));
        tally.parts.add(part);
        (tally.boots, tally.lost) = (tally.boots + host.boots(), [&tally.lost, host.lost()].concat());
        for outcome in outcomes? {
            // The host has printed each outcome as it came.
            let name = format!("{}: {}", host.name(), outcome.name);
            if let Some(output) = &outcome.output {
                tally.parts.check(name.clone(), output.seconds);
            }
            match outcome.verdict {
                Ok(()) => tally.passed += 1,
                Err(_) => tally.failed.push(name),
            }
        }
    }
    Ok(())
}
