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

use crate::cli::{FAILURE, PlanFormat, RunArgs, USAGE_ERROR};
use crate::config;
use crate::dry_run;
use crate::output;
use crate::report::Report;

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
    report: Option<Report>,
    shutdown: Arc<Shutdown>,
}

/// What goes wrong here is the command line's fault, or the host has run out of something.
fn prepare(args: &RunArgs) -> Result<Prepared> {
    if !args.command.is_empty() {
        bail!("Running a COMMAND in the guest is not built yet");
    }
    let config = config::run(args)?;
    virtio::config::check(&config.devices, GuestLimits { mem: config.mem })?;
    let files = Files::open(&config)?;
    let plan = Arc::new(Plan::new(&config, files.probe(&config, kvm::host_facts())?)?);
    let shutdown = Arc::new(Shutdown::new().context("Cannot create an eventfd")?);
    let watch = Watch::new(&config.run, Arc::clone(&shutdown))?;
    let open_console = |target: &Target| target.open("The console").context("Cannot connect the console");
    let (devices, endpoint, report) = if args.dry_run {
        (Vec::new(), open_console(&Target::Null)?, None)
    } else {
        let report = config.run.report.as_deref().map(Report::open).transpose()?;
        (virtio::config::open(&config.devices)?, open_console(&config.run.console)?, report)
    };
    Ok(Prepared { config, plan, files, devices, watch, endpoint, report, shutdown })
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
            map: None,
        });
        if let Some(map) = &facts.map {
            output::dump(map);
        }
        tell(&facts, self.config.run.until.as_deref());
        if let Some(report) = self.report {
            report.write(&self.config, &self.plan, &facts)?;
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

/// Says how it ended, where the status alone says too little.
fn tell(facts: &Facts, until: Option<&str>) {
    if let Some(message) = facts.outcome.message() {
        output::tell(message);
    } else if let (Some(until), Outcome::PowerOff | Outcome::Reset) = (until, &facts.outcome) {
        output::complain(format!("The guest ended by itself before its console matched `{until}`"));
    }
    log::debug!("{:?} after {:?}, {:?}", facts.outcome, facts.duration, facts.exits);
}
