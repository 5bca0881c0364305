//! `carpel run`: boots a guest and returns its verdict.

use std::fmt;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use carpel_devices::endpoint::{Endpoint, Input};
use carpel_devices::virtio::backing::RamBacking;
use carpel_devices::virtio::config::Devices;
use carpel_devices::virtio::{self, GuestLimits};
use carpel_vmm::config::{Config, Limits};
use carpel_vmm::console::Console;
use carpel_vmm::end::Guard;
use carpel_vmm::kvm;
use carpel_vmm::loader::Files;
use carpel_vmm::machine::{self, Machine};
use carpel_vmm::memory::{GuestRam, MemoryError};
use carpel_vmm::outcome::{Outcome, Shutdown};
use carpel_vmm::parent::Parent;
use carpel_vmm::plan::Plan;
use carpel_vmm::probe;
use carpel_vmm::run::{ConsoleState, Facts, Remains};
use carpel_vmm::signals;
use carpel_vmm::terminal::Terminal;
use carpel_vmm::threads::ExitCounts;
use carpel_vmm::watch::Judge;
use jiff::Timestamp;

use crate::cli::{FAILURE, PlanFormat, RunArgs, USAGE_ERROR};
use crate::config;
use crate::dry_run;
use crate::output;
use crate::report::{self, Places, Reports};

/// Linux's EAGAIN, of a thread that cannot be had, ENOMEM, ENFILE and EMFILE (include/uapi/asm-generic/errno-base.h).
const OUT_OF_RESOURCES: [i32; 4] = [11, 12, 23, 24];

/// Boots a guest; the exit status is its verdict.
pub fn run(args: &RunArgs) -> ExitCode {
    if let Err(error) = signals::prepare() {
        output::complain(format!("Cannot set the signal mask: {error}"));
        return ExitCode::from(FAILURE);
    }
    let prepared = match prepare(args) {
        Ok(prepared) => prepared,
        Err(error) => {
            let status = if args.command.is_empty() { early_status(&error) } else { FAILURE };
            output::complain(error);
            return ExitCode::from(status);
        }
    };
    let result = match prepared {
        Ready::Plan(config, plan) => print(&config, &plan, args.format).map(|()| 0),
        Ready::Guest(guest) => guest.boot(),
    };
    ExitCode::from(result.unwrap_or_else(|error| {
        output::complain(error);
        FAILURE
    }))
}

/// Exit status for an error met before a guest is built: the command line's fault, unless the host ran out of something.
pub fn early_status(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<OfHost>().is_some() {
        return FAILURE;
    }
    let mut numbers = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    if numbers.any(|number| OUT_OF_RESOURCES.contains(&number)) { FAILURE } else { USAGE_ERROR }
}

/// What was attempted that has nothing to do with the command line.
#[derive(Debug)]
struct OfHost(&'static str);

impl fmt::Display for OfHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Everything that the command line and its files determine.
struct Prepared {
    config: Config,
    plan: Arc<Plan>,
    files: Files,
    ram: Result<GuestRam, MemoryError>,
    devices: Devices,
    judge: Arc<Judge>,
    parent: Option<Parent>,
    endpoint: Endpoint,
    reports: Reports,
    /// What reports call the run.
    name: String,
    start: Timestamp,
    shutdown: Arc<Shutdown>,
    guard: Arc<Guard>,
}

/// What `run` was asked for.
enum Ready {
    Plan(Box<Config>, Arc<Plan>),
    Guest(Box<Prepared>),
}

/// What goes wrong here is the command line's fault, or the host has run out of something.
fn prepare(args: &RunArgs) -> Result<Ready> {
    let start = Timestamp::now();
    // Before anything is opened: a run that goes no further must not leave the report of an earlier one.
    let understood = understand(args);
    if understood.is_err() && !args.dry_run {
        report::remove_earlier(&args.report);
    }
    let (config, places) = understood?;
    // As early as may be: a parent that ends before it is known is missed.
    let parent = parent(&config, args)?;
    let reports = if args.dry_run { None } else { Some(places.open()?) };
    if !args.command.is_empty() {
        bail!("Running a COMMAND in the guest is not built yet");
    }
    let shutdown = Arc::new(Shutdown::new().context(OfHost("Cannot create an eventfd"))?);
    let judge = Arc::new(Judge::new(&config.run, Arc::clone(&shutdown))?);
    let Some(reports) = reports else {
        let plan = plan(&config, &Files::open(&config)?)?;
        return Ok(Ready::Plan(Box::new(config), plan));
    };
    // Before any file is opened: that may wait for the host.
    let guard = Guard::start(Arc::clone(&shutdown), &config.run);
    let guard = guard.context(OfHost("Cannot watch over the end of the run"))?;
    let files = Files::open(&config)?;
    let plan = plan(&config, &files)?;
    let ram = machine::allocate_ram(&config, &plan);
    // That the host has no memory left is told and reported as any other end of a run.
    let ram = match ram {
        Err(error) if error.is_of_configuration() => return Err(error.into()),
        ram => ram,
    };
    let backing = ram.as_ref().map_or(RamBacking::default(), GuestRam::backing);
    let devices = virtio::config::open(&config.devices, &plan.shm, backing)?;
    let endpoint = config.run.console.open("The console").context("Cannot connect the console")?;
    let name = config.run.name.clone().unwrap_or_else(|| report::default_name(&config));
    let guest =
        Prepared { config, plan, files, ram, devices, judge, parent, endpoint, reports, name, start, shutdown, guard };
    Ok(Ready::Guest(Box::new(guest)))
}

/// The plan, after a word on what the user may have forgotten.
fn plan(config: &Config, files: &Files) -> Result<Arc<Plan>> {
    let plan = Plan::new(config, files.probe(config, probe::host_facts(config))?)?;
    if plan.lacks_console(config) {
        let console = plan.console().and_then(|port| port.kind.console()).unwrap_or("ttyS0");
        output::tell(format_args!(
            "The command line of --cmdline has no `console=`: add console={console} to see what Linux prints"
        ));
    }
    Ok(Arc::new(plan))
}

/// What the command line means, and where reports go.
fn understand(args: &RunArgs) -> Result<(Config, Places)> {
    let config = config::run(args)?;
    virtio::config::check(&config.devices, GuestLimits { mem: config.mem })?;
    let places = Places::find(&config)?;
    Ok((config, places))
}

/// The process to end with, if there shall be one.
fn parent(config: &Config, args: &RunArgs) -> Result<Option<Parent>> {
    let wanted = config.run.die_with_parent.unwrap_or(false) && !args.dry_run;
    wanted.then(Parent::find).transpose().context("Cannot use `--die-with-parent`")
}

impl Prepared {
    /// Runs the guest, then tells and reports how it ended: also where no guest came to run.
    fn boot(self: Box<Self>) -> Result<u8> {
        let Endpoint { output, input } = self.endpoint;
        let console = Console::new(output, Arc::clone(&self.judge), Arc::clone(&self.shutdown));
        let (files, ram, devices, judge, parent) = (&self.files, self.ram, self.devices, self.judge, self.parent);
        let host = Host { files, ram, devices, console: &console, judge, input, parent };
        let ran = run_guest(&self.plan, host, &self.config.run, &self.shutdown, &self.guard);
        // What is told of the run does not wait for what is left of the guest, which is let go of after that.
        let (facts, _remains) = match ran {
            Ok((facts, remains)) => (facts, Some(remains)),
            Err(error) => {
                let outcome = Outcome::Failed(output::one_line(error));
                let (duration, exits) = (Duration::ZERO, ExitCounts::default());
                let (matched, console_tail) = (None, Vec::new());
                (Facts { outcome, duration, exits, unmapped: 0, printed: 0, matched, console_tail, map: None }, None)
            }
        };
        self.guard.end_begins();
        if let Some(map) = &facts.map {
            output::dump(map);
        }
        self.guard.end_is_told(facts.outcome.status());
        let message = facts.outcome.message();
        if let Some(message) = &message {
            output::tell(message);
        }
        log::debug!("{:?} after {:?}, {:?}", facts.outcome, facts.duration, facts.exits);
        let (config, plan) = (&self.config, &self.plan);
        let run = report::Run { config, plan, facts: &facts, message, name: self.name, start: self.start };
        self.reports.write(&run, || self.guard.gives_way())?;
        Ok(facts.outcome.status())
    }
}

/// What the guest gets of the host.
struct Host<'a> {
    files: &'a Files,
    ram: Result<GuestRam, MemoryError>,
    devices: Devices,
    console: &'a Console,
    judge: Arc<Judge>,
    input: Option<Input>,
    parent: Option<Parent>,
}

/// Builds the machine and runs it. What goes wrong here is the monitor's or the host's fault.
fn run_guest(
    plan: &Arc<Plan>,
    host: Host<'_>,
    limits: &Limits,
    shutdown: &Arc<Shutdown>,
    guard: &Guard,
) -> Result<(Facts, Remains)> {
    let Host { files, ram, devices, console, judge, input, parent } = host;
    let kvm = kvm::open()?;
    let context = "Cannot build the machine";
    let machine = Machine::new(kvm, plan, files, ram.context(context)?, devices, console, shutdown).context(context)?;
    log::debug!("Booting {} with `{}`", plan.kernel.format.name(), plan.cmdline);

    // The user's terminal is the guest's until that has ended.
    let terminal = match &input {
        Some(input) if input.is_stdin() => Terminal::open().context("Cannot set the terminal to raw mode")?,
        _ => None,
    };
    Ok(machine.run(limits, ConsoleState { judge, input, terminal }, parent, shutdown, guard)?)
}

/// Prints what a run would be.
fn print(config: &Config, plan: &Plan, format: PlanFormat) -> Result<()> {
    output::print(&match format {
        PlanFormat::Text => dry_run::text(plan),
        PlanFormat::Json => dry_run::json(config, plan)?,
    })
}
