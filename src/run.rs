//! `carpel run`: boots a guest and returns its verdict.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use carpel_devices::endpoint::{Endpoint, Input, Target};
use carpel_devices::virtio::{self, GuestLimits, VirtioDevice};
use carpel_vmm::config::{Config, Limits};
use carpel_vmm::console::Console;
use carpel_vmm::kvm;
use carpel_vmm::machine::Machine;
use carpel_vmm::outcome::{Outcome, Shutdown};
use carpel_vmm::plan::{Files, Plan};
use carpel_vmm::run::{ConsoleState, Facts};
use carpel_vmm::terminal::RawTerminal;
use carpel_vmm::threads::ExitCounts;
use carpel_vmm::watch::Watch;
use jiff::Timestamp;

use crate::cli::{FAILURE, PlanFormat, RunArgs, USAGE_ERROR};
use crate::config;
use crate::dry_run;
use crate::output;
use crate::report::{self, Places, Reports};

/// Linux's ENOMEM, ENFILE and EMFILE (include/uapi/asm-generic/errno-base.h).
const OUT_OF_RESOURCES: [i32; 3] = [12, 23, 24];

/// Boots a guest; the exit status is its verdict.
pub fn run(args: &RunArgs) -> ExitCode {
    let prepared = match prepare(args) {
        Ok(prepared) => prepared,
        Err(error) => {
            let status = if args.command.is_empty() { early_status(&error) } else { FAILURE };
            output::complain(error);
            return ExitCode::from(status);
        }
    };
    let result = if args.dry_run { prepared.print(args.format).map(|()| 0) } else { prepared.boot() };
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
    endpoint: Endpoint,
    reports: Option<Reports>,
    /// What reports call the run.
    name: String,
    start: Timestamp,
    shutdown: Arc<Shutdown>,
}

/// What goes wrong here is the command line's fault, or the host has run out of something.
fn prepare(args: &RunArgs) -> Result<Prepared> {
    let start = Timestamp::now();
    // Before anything is opened: a run that goes no further must not leave the report of an earlier one.
    let understood = understand(args);
    if understood.is_err() && !args.dry_run {
        report::remove_earlier(&args.report);
    }
    let (config, places) = understood?;
    let reports = if args.dry_run { None } else { Some(places.open()?) };
    if !args.command.is_empty() {
        bail!("Running a COMMAND in the guest is not built yet");
    }
    let files = Files::open(&config)?;
    let plan = Arc::new(Plan::new(&config, files.probe(&config, kvm::host_facts())?)?);
    let shutdown = Arc::new(Shutdown::new().context("Cannot create an eventfd")?);
    let watch = Watch::new(&config.run, Arc::clone(&shutdown))?;
    let open_console = |target: &Target| target.open("The console").context("Cannot connect the console");
    let (devices, endpoint) = if args.dry_run {
        (Vec::new(), open_console(&Target::Null)?)
    } else {
        (virtio::config::open(&config.devices)?, open_console(&config.run.console)?)
    };
    let name = config.run.name.clone().unwrap_or_else(|| report::default_name(&config));
    Ok(Prepared { config, plan, files, devices, watch, endpoint, reports, name, start, shutdown })
}

/// What the command line means, and where reports go.
fn understand(args: &RunArgs) -> Result<(Config, Places)> {
    let config = config::run(args)?;
    virtio::config::check(&config.devices, GuestLimits { mem: config.mem })?;
    let places = Places::find(&config)?;
    Ok((config, places))
}

impl Prepared {
    fn print(&self, format: PlanFormat) -> Result<()> {
        output::print(&match format {
            PlanFormat::Text => dry_run::text(&self.plan),
            PlanFormat::Json => dry_run::json(&self.config, &self.plan)?,
        })
    }

    /// Runs the guest, then tells and reports how it ended: also where no guest came to run.
    fn boot(self) -> Result<u8> {
        let Endpoint { output, input } = self.endpoint;
        let console = Console::new(output, self.watch, Arc::clone(&self.shutdown));
        let facts = run_guest(&self.plan, &self.files, self.devices, &console, input, &self.config.run, &self.shutdown);
        let facts = facts.unwrap_or_else(|error| Facts {
            outcome: Outcome::Failed(output::one_line(error)),
            duration: Duration::ZERO,
            exits: ExitCounts::default(),
            unmapped: 0,
            printed: 0,
            matched: None,
            console_tail: Vec::new(),
            map: None,
        });
        if let Some(map) = &facts.map {
            output::dump(map);
        }
        let message = message(&facts, self.config.run.until.as_deref());
        if let Some(message) = &message {
            output::tell(message);
        }
        log::debug!("{:?} after {:?}, {:?}", facts.outcome, facts.duration, facts.exits);
        if let Some(reports) = self.reports {
            let (config, plan) = (&self.config, &self.plan);
            reports.write(&report::Run { config, plan, facts: &facts, message, name: self.name, start: self.start })?;
        }
        Ok(facts.outcome.status())
    }
}

/// Builds the machine and runs it. What goes wrong here is the monitor's or the host's fault.
fn run_guest(
    plan: &Arc<Plan>,
    files: &Files,
    devices: Vec<Box<dyn VirtioDevice>>,
    console: &Console,
    input: Option<Input>,
    limits: &Limits,
    shutdown: &Arc<Shutdown>,
) -> Result<Facts> {
    let printed = console.printed();
    let kvm = kvm::open()?;
    let machine = Machine::new(kvm, plan, files, devices, console, shutdown).context("Cannot build the machine")?;
    log::debug!("Booting {} with `{}`", plan.kernel.format.name(), plan.cmdline);

    // The user's terminal is raw until the guest has ended.
    let raw = match &input {
        Some(input) if input.is_stdin() => RawTerminal::enter().context("Cannot set the terminal to raw mode")?,
        _ => None,
    };
    Ok(machine.run(limits, ConsoleState { printed, input, terminal: raw.is_some() }, shutdown)?)
}

/// How it ended, where the status alone says too little.
fn message(facts: &Facts, until: Option<&str>) -> Option<String> {
    let until = until.filter(|_| matches!(facts.outcome, Outcome::PowerOff | Outcome::Reset));
    facts.outcome.message().or_else(|| {
        let text = format!("The guest ended by itself before its console matched `{}`", until?);
        Some(output::one_line(text))
    })
}
