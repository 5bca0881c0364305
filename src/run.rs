//! `carpel run`: boots a guest and returns its verdict.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use carpel_devices::endpoint::{Endpoint, Input, Target};
use carpel_devices::virtio::VirtioDevice;
use carpel_vmm::config::{Config, Limits};
use carpel_vmm::console::Console;
use carpel_vmm::kvm;
use carpel_vmm::machine::Machine;
use carpel_vmm::outcome::{Outcome, Shutdown};
use carpel_vmm::plan::{Files, Plan};
use carpel_vmm::platform::Place;
use carpel_vmm::run::{ConsoleState, Facts};
use carpel_vmm::terminal::RawTerminal;
use carpel_vmm::threads::ExitCounts;
use carpel_vmm::virtio::{self, Window};
use carpel_vmm::watch::Judge;

use crate::cli::{FAILURE, RunArgs, USAGE_ERROR};
use crate::config;
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
    let result = if args.dry_run { print_plan(&prepared.plan).map(|()| 0) } else { prepared.boot() };
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
    limits: Limits,
    judge: Arc<Judge>,
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
    virtio::check(&config)?;
    let limits = config::limits(args);
    let target = config::console(&args.console)?;
    let files = Files::open(&config)?;
    let plan = Arc::new(Plan::new(&config, files.probe(&config, kvm::host_facts())?)?);
    let shutdown = Arc::new(Shutdown::new().context("Cannot create an eventfd")?);
    let judge = Arc::new(Judge::new(&limits, Arc::clone(&shutdown))?);
    let open_console = |target: &Target| target.open("The console").context("Cannot connect the console");
    let (devices, endpoint, report) = if args.dry_run {
        (Vec::new(), open_console(&Target::Null)?, None)
    } else {
        let report = args.report.as_deref().map(Report::open).transpose()?;
        (virtio::open(&config)?, open_console(&target)?, report)
    };
    Ok(Prepared { config, plan, files, devices, limits, judge, endpoint, report, shutdown })
}

impl Prepared {
    /// Runs the guest, then tells and reports how it ended: also where no guest came to run.
    fn boot(self) -> Result<u8> {
        let Endpoint { output, input } = self.endpoint;
        let console = Console::new(output, Arc::clone(&self.judge), Arc::clone(&self.shutdown));
        let judged = Judged { console, judge: self.judge, shutdown: self.shutdown };
        let facts = run_guest(&self.plan, &self.files, self.devices, &judged, input, &self.limits);
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
        tell(&facts);
        if let Some(report) = self.report {
            report.write(&self.config, &self.plan, &facts)?;
        }
        Ok(facts.outcome.status())
    }
}

/// The console, and what comes of it.
struct Judged {
    console: Console,
    judge: Arc<Judge>,
    shutdown: Arc<Shutdown>,
}

/// Builds the machine and runs it. What goes wrong here is the monitor's or the host's fault.
fn run_guest(
    plan: &Arc<Plan>,
    files: &Files,
    devices: Vec<Box<dyn VirtioDevice>>,
    judged: &Judged,
    input: Option<Input>,
    limits: &Limits,
) -> Result<Facts> {
    let Judged { console, judge, shutdown } = judged;
    let kvm = kvm::open()?;
    let machine = Machine::new(kvm, plan, files, devices, console, shutdown).context("Cannot build the machine")?;
    log::debug!("Booting {} with `{}`", plan.kernel.format.name(), plan.cmdline);

    // The user's terminal is raw until the guest has ended.
    let raw = match &input {
        Some(input) if input.is_stdin() => RawTerminal::enter().context("Cannot set the terminal to raw mode")?,
        _ => None,
    };
    Ok(machine.run(limits, ConsoleState { judge: Arc::clone(judge), input, terminal: raw.is_some() }, shutdown)?)
}

/// Says how it ended, where the status alone says too little.
fn tell(facts: &Facts) {
    if let Some(message) = facts.outcome.message() {
        output::tell(message);
    }
    log::debug!("{:?} after {:?}, {:?}", facts.outcome, facts.duration, facts.exits);
}

fn print_plan(plan: &Plan) -> Result<()> {
    let mut text = plan.map.to_string();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\nkernel: {} by {}, {} vCPU(s)",
        plan.kernel.format.name(),
        plan.kernel.boot.name(),
        plan.vcpus
    );
    let _ = writeln!(text, "command line: {}", plan.cmdline);
    let _ = writeln!(text, "irqchip: {}", plan.irqchip.name());
    for device in &plan.devices {
        let irq = device.irq.map(|irq| format!(", IRQ {irq}")).unwrap_or_default();
        let _ = writeln!(text, "device: {} at {}{irq}", device.name, device.place);
    }
    for &Window { kind, base, len, irq } in &plan.virtio {
        let _ = writeln!(text, "device: {kind} at {}, IRQ {irq}", Place::Mmio(base..base + len));
    }
    output::print(&text)
}
