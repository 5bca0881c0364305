//! `carpel run`: boots a guest and returns its verdict.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use carpel_devices::endpoint::{Endpoint, Input};
use carpel_devices::virtio::{self, GuestLimits, VirtioDevice};
use carpel_vmm::config::{Config, Limits};
use carpel_vmm::console::Console;
use carpel_vmm::end::Guard;
use carpel_vmm::kvm;
use carpel_vmm::machine::Machine;
use carpel_vmm::outcome::{Outcome, Shutdown};
use carpel_vmm::parent::Parent;
use carpel_vmm::plan::{Files, Plan};
use carpel_vmm::run::{ConsoleState, Facts, Remains};
use carpel_vmm::signals;
use carpel_vmm::terminal::Terminal;
use carpel_vmm::threads::ExitCounts;
use carpel_vmm::watch::Watch;
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
    let mut numbers = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()?.raw_os_error());
    if numbers.any(|number| OUT_OF_RESOURCES.contains(&number)) { FAILURE } else { USAGE_ERROR }
}

/// Everything that the command line and its files determine.
struct Prepared {
    config: Config,
    plan: Arc<Plan>,
    files: Files,
    devices: Vec<Box<dyn VirtioDevice>>,
    watch: Watch,
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
    let shutdown = Arc::new(Shutdown::new().context("Cannot create an eventfd")?);
    let watch = Watch::new(&config.run, Arc::clone(&shutdown))?;
    let Some(reports) = reports else {
        let plan = plan(&config, &Files::open(&config)?)?;
        return Ok(Ready::Plan(Box::new(config), plan));
    };
    // Before any file is opened: that may wait for the host.
    let guard =
        Guard::start(Arc::clone(&shutdown), config.run.timeout).context("Cannot watch over the end of the run")?;
    let files = Files::open(&config)?;
    let plan = plan(&config, &files)?;
    let devices = virtio::config::open(&config.devices)?;
    let endpoint = config.run.console.open("The console").context("Cannot connect the console")?;
    let name = config.run.name.clone().unwrap_or_else(|| report::default_name(&config));
    let guest =
        Prepared { config, plan, files, devices, watch, parent, endpoint, reports, name, start, shutdown, guard };
    Ok(Ready::Guest(Box::new(guest)))
}

/// The plan, after a word on what the user may have forgotten.
fn plan(config: &Config, files: &Files) -> Result<Arc<Plan>> {
    let plan = Plan::new(config, files.probe(config, kvm::host_facts())?)?;
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
        let console = Console::new(output, self.watch, Arc::clone(&self.shutdown));
        let host = Host { files: &self.files, devices: self.devices, console: &console, input, parent: self.parent };
        let ran = run_guest(&self.plan, host, &self.config.run, &self.shutdown, &self.guard);
        // What is told of the run does not wait for what is left of the guest, which is let go of after that.
        let (facts, _remains) = ran.map(|(facts, remains)| (facts, Some(remains))).unwrap_or_else(|error| {
            let outcome = Outcome::Failed(output::one_line(error));
            let (duration, exits) = (Duration::ZERO, ExitCounts::default());
            let (matched, console_tail) = (None, Vec::new());
            (Facts { outcome, duration, exits, unmapped: 0, printed: 0, matched, console_tail, map: None }, None)
        });
        self.guard.end_begins();
        if let Some(map) = &facts.map {
            output::dump(map);
        }
        self.guard.end_is_told(facts.outcome.status());
        let message = message(&facts, self.config.run.until.as_deref());
        if let Some(message) = &message {
            output::tell(message);
        }
        log::debug!("{:?} after {:?}, {:?}", facts.outcome, facts.duration, facts.exits);
        let (config, plan) = (&self.config, &self.plan);
        self.reports.write(&report::Run {
            config,
            plan,
            facts: &facts,
            message,
            name: self.name,
            start: self.start,
        })?;
        Ok(facts.outcome.status())
    }
}

/// What the guest gets of the host.
struct Host<'a> {
    files: &'a Files,
    devices: Vec<Box<dyn VirtioDevice>>,
    console: &'a Console,
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
    let Host { files, devices, console, input, parent } = host;
    let printed = console.printed();
    let kvm = kvm::open()?;
    let machine = Machine::new(kvm, plan, files, devices, console, shutdown).context("Cannot build the machine")?;
    log::debug!("Booting {} with `{}`", plan.kernel.format.name(), plan.cmdline);

    // The user's terminal is the guest's until that has ended.
    let terminal = match &input {
        Some(input) if input.is_stdin() => Terminal::open().context("Cannot set the terminal to raw mode")?,
        _ => None,
    };
    Ok(machine.run(limits, ConsoleState { printed, input, terminal }, parent, shutdown, guard)?)
}

/// How it ended, where the status alone says too little.
fn message(facts: &Facts, until: Option<&str>) -> Option<String> {
    let until = until.filter(|_| matches!(facts.outcome, Outcome::PowerOff | Outcome::Reset));
    facts.outcome.message().or_else(|| {
        let text = format!("The guest ended by itself before its console matched `{}`", until?);
        Some(output::one_line(text))
    })
}

/// Prints what a run would be.
fn print(config: &Config, plan: &Plan, format: PlanFormat) -> Result<()> {
    output::print(&match format {
        PlanFormat::Text => dry_run::text(plan),
        PlanFormat::Json => dry_run::json(config, plan)?,
    })
}
