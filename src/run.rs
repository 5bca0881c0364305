//! `carpel run`: boots a guest and returns its verdict.

use std::fmt::{self, Write as _};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use carpel_devices::endpoint::{Endpoint, Input};
use carpel_devices::virtio::VirtioDevice;
use carpel_vmm::config::{Config, Limits};
use carpel_vmm::console::Console;
use carpel_vmm::end::{self, Guard};
use carpel_vmm::kvm;
use carpel_vmm::machine::Machine;
use carpel_vmm::outcome::{Outcome, Shutdown};
use carpel_vmm::plan::{Files, Plan};
use carpel_vmm::platform::Place;
use carpel_vmm::run::{ConsoleState, Facts, Remains};
use carpel_vmm::terminal::RawTerminal;
use carpel_vmm::threads::ExitCounts;
use carpel_vmm::virtio::{self, Window};
use carpel_vmm::watch::Watch;

use crate::cli::{FAILURE, RunArgs, USAGE_ERROR};
use crate::config;
use crate::output;
use crate::report::Report;

/// Linux's EAGAIN, of a thread that cannot be had, ENOMEM, ENFILE and EMFILE (include/uapi/asm-generic/errno-base.h).
const OUT_OF_RESOURCES: [i32; 4] = [11, 12, 23, 24];

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
    let result = match prepared {
        Ready::Plan(plan) => print_plan(&plan).map(|()| 0),
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
    devices: Vec<Box<dyn VirtioDevice>>,
    limits: Limits,
    watch: Watch,
    endpoint: Endpoint,
    report: Option<Report>,
    shutdown: Arc<Shutdown>,
    guard: Arc<Guard>,
}

/// What `run` was asked for.
enum Ready {
    Plan(Arc<Plan>),
    Guest(Box<Prepared>),
}

/// What goes wrong here is the command line's fault, or the host has run out of something.
fn prepare(args: &RunArgs) -> Result<Ready> {
    if !args.command.is_empty() {
        bail!("Running a COMMAND in the guest is not built yet");
    }
    let config = config::run(args)?;
    virtio::check(&config)?;
    let limits = config::limits(args);
    let target = config::console(&args.console)?;
    let shutdown = Arc::new(Shutdown::new().context(OfHost("Cannot create an eventfd"))?);
    let watch = Watch::new(&limits, Arc::clone(&shutdown))?;
    let plan_for =
        |files: &Files| -> Result<_> { Ok(Arc::new(Plan::new(&config, files.probe(&config, kvm::host_facts())?)?)) };
    if args.dry_run {
        return Ok(Ready::Plan(plan_for(&Files::open(&config)?)?));
    }
    // Before any file is opened: that may wait for the host.
    let guard = Guard::start(Arc::clone(&shutdown), limits.timeout);
    let guard = guard.context(OfHost("Cannot watch over the end of the run"))?;
    let files = Files::open(&config)?;
    let plan = plan_for(&files)?;
    let report = args.report.as_deref().map(Report::open).transpose()?;
    let devices = virtio::open(&config)?;
    let endpoint = target.open("The console").context("Cannot connect the console")?;
    let guest = Prepared { config, plan, files, devices, limits, watch, endpoint, report, shutdown, guard };
    Ok(Ready::Guest(Box::new(guest)))
}

impl Prepared {
    /// Runs the guest, then tells and reports how it ended: also where no guest came to run.
    fn boot(self: Box<Self>) -> Result<u8> {
        let Endpoint { output, input } = self.endpoint;
        let console = Console::new(output, self.watch, Arc::clone(&self.shutdown));
        let host = Host { files: &self.files, devices: self.devices, console: &console, input };
        let ran = run_guest(&self.plan, host, &self.limits, &self.shutdown, &self.guard);
        // What is told of the run does not wait for what is left of the guest, which is let go of after that.
        let (facts, _remains) = match ran {
            Ok((facts, remains)) => (facts, Some(remains)),
            Err(error) => {
                let outcome = Outcome::Failed(output::one_line(error));
                let (duration, exits) = (Duration::ZERO, ExitCounts::default());
                (Facts { outcome, duration, exits, unmapped: 0, printed: 0, map: None }, None)
            }
        };
        self.guard.end_begins();
        if let Some(map) = &facts.map {
            output::dump(map);
        }
        self.guard.end_is_told(facts.outcome.status());
        tell(&facts, self.limits.until.as_deref());
        if let Some(report) = self.report {
            report.write(&self.config, &self.plan, &facts)?;
        }
        Ok(facts.outcome.status())
    }
}

/// What the guest gets of the host.
struct Host<'a> {
    files: &'a Files,
    devices: Vec<Box<dyn VirtioDevice>>,
    console: &'a Console,
    input: Option<Input>,
}

/// Builds the machine and runs it. What goes wrong here is the monitor's or the host's fault.
fn run_guest(
    plan: &Arc<Plan>,
    host: Host<'_>,
    limits: &Limits,
    shutdown: &Arc<Shutdown>,
    guard: &Guard,
) -> Result<(Facts, Remains)> {
    let Host { files, devices, console, input } = host;
    let printed = console.printed();
    let kvm = kvm::open()?;
    let machine = Machine::new(kvm, plan, files, devices, console, shutdown).context("Cannot build the machine")?;
    log::debug!("Booting {} with `{}`", plan.kernel.format.name(), plan.cmdline);

    // The user's terminal is raw until the guest has ended.
    let raw = match &input {
        Some(input) if input.is_stdin() => {
            end::remember_terminal();
            RawTerminal::enter().context("Cannot set the terminal to raw mode")?
        }
        _ => None,
    };
    Ok(machine.run(limits, ConsoleState { printed, input, terminal: raw.is_some() }, shutdown, guard)?)
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
