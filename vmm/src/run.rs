//! Running a machine to its end: the vCPUs in threads of their own, all else as events of the main thread.

use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps as _};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use thiserror::Error;
use vmm_sys_util::timerfd::TimerFd;

use carpel_devices::endpoint;
use carpel_devices::virtio::console::ConsoleHandle;
use carpel_devices::virtio::runner::{WorkerError, WorkerThreads};

use crate::config::Limits;
use crate::dump::View;
use crate::end::{Guard, IN_FLIGHT};
use crate::exit::Buses;
use crate::input::{Input, Ports};
use crate::machine::{Foundation, Machine};
use crate::outcome::{Outcome, Shutdown};
use crate::terminal;
use crate::threads::{ExitCounts, ExitStatistics, StartError, VcpuThreads};
use crate::virtio;

/// How often vCPUs and the console are looked after.
const TICK: Duration = Duration::from_millis(250);
/// So many ticks in a row every vCPU must be halted before the guest counts as dead.
const HALTED_TICKS: u32 = 2;
/// After a panic, a kernel that prints nothing for so long has nothing more to say.
const PANIC_SILENCE: Duration = Duration::from_millis(500);
/// vCPUs leave within microseconds, unless they wait for the host.
const LAST_CHANCE: Duration = Duration::from_millis(250);
/// Signals that end the run in order.
pub(crate) const END_SIGNALS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
/// The signal that prints the guest's maps.
const DUMP_SIGNAL: Signal = Signal::SIGUSR1;
/// The signal that a terminal changed its size.
const RESIZE_SIGNAL: Signal = Signal::SIGWINCH;

/// Why the main thread's events could not be set up.
#[derive(Debug, Error)]
pub enum RunError {
    /// A system call failed.
    #[error("Cannot set up the event loop")]
    Io(#[from] io::Error),
    /// The event manager failed. Its errors hold their causes.
    #[error("Cannot set up the event loop: {0}")]
    Events(event_manager::Error),
    /// The vCPUs do not run.
    #[error(transparent)]
    Vcpus(#[from] StartError),
    /// The host gives no more threads, or no memory for them.
    #[error("Cannot start the devices' threads")]
    Threads(#[source] io::Error),
    /// A device does not get what it needs of the host.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// What the console does in the meantime.
pub struct ConsoleState {
    /// How many bytes the guest has printed.
    pub printed: Arc<AtomicU64>,
    /// Where the guest's input comes from, if there is any.
    pub input: Option<endpoint::Input>,
    /// Whether that is the user's terminal: it has an escape key and a size.
    pub terminal: bool,
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Facts {
    /// How it ended.
    pub outcome: Outcome,
    /// How long the vCPUs ran.
    pub duration: Duration,
    /// How often they left the guest.
    pub exits: ExitCounts,
    /// Accesses that no device answered.
    pub unmapped: u64,
    /// Bytes that the guest printed.
    pub printed: u64,
    /// The guest's maps at its end, if they were asked for.
    pub map: Option<String>,
}

/// What is left of a machine whose run has ended. To let go of it may wait for the host, which must not hold up what is told of the
/// run.
pub struct Remains {
    _machine: Option<(Arc<Buses>, Arc<View>, Foundation)>,
}

/// The main thread's events.
type Manager = EventManager<Box<dyn MutEventSubscriber>>;

impl Machine {
    /// Runs the machine until something ends it.
    pub fn run(
        self,
        limits: &Limits,
        console: ConsoleState,
        shutdown: &Arc<Shutdown>,
        guard: &Guard,
    ) -> Result<(Facts, Remains), RunError> {
        let started = Instant::now();
        guard.run_begins(limits.timeout);
        let mut manager = Manager::new().map_err(RunError::Events)?;
        let (worker_threads, runners) = virtio::start_threads(self.runners).map_err(RunError::Threads)?;
        add_limits(&mut manager, limits, shutdown)?;
        let dump_signal = readable([DUMP_SIGNAL])?;
        if let (true, Some(port)) = (console.terminal, &self.console) {
            manager.add_subscriber(Box::new(Resize::new(port.clone(), Arc::clone(shutdown))?));
        }
        if let Some(source) = console.input {
            let ports = Ports { serial: self.serial, virtio: self.console };
            manager.add_subscriber(Box::new(Input::new(source, ports, Arc::clone(shutdown), console.terminal)?));
        }
        let timer = periodic(TICK)?;
        for runner in runners {
            let failure = runner.failure();
            manager.add_subscriber(Box::new(runner));
            failure.check()?;
        }
        // No vCPU runs before all that serves it is there.
        worker_threads.started()?;
        let threads = Arc::new(VcpuThreads::start(self.vcpus, &self.buses, shutdown)?);
        manager.add_subscriber(Box::new(Dump {
            fd: dump_signal,
            view: Arc::clone(&self.view),
            threads: Arc::clone(&threads),
            shutdown: Arc::clone(shutdown),
        }));
        let printed = Arc::clone(&console.printed);
        manager.add_subscriber(Box::new(Watchdog::new(timer, &threads, limits, printed, shutdown)));

        serve(&mut manager, shutdown);
        guard.end_begins();
        let (ExitStatistics { exits, registers }, all_ended) = end(manager, worker_threads, threads);
        if limits.dump_map {
            guard.end_pauses();
        }
        let facts = Facts {
            outcome: shutdown.outcome().unwrap_or(Outcome::PowerOff),
            duration: started.elapsed(),
            exits,
            unmapped: self.buses.port.unmapped() + self.buses.mmio.unmapped(),
            printed: console.printed.load(Ordering::Relaxed),
            map: limits.dump_map.then(|| self.view.describe(&registers)),
        };
        let machine = (self.buses, self.view, self.foundation);
        // What was left behind still uses it, until the process ends.
        let machine = if all_ended {
            Some(machine)
        } else {
            std::mem::forget(machine);
            None
        };
        Ok((facts, Remains { _machine: machine }))
    }
}

/// What ends the run from outside.
fn add_limits(manager: &mut Manager, limits: &Limits, shutdown: &Arc<Shutdown>) -> Result<(), RunError> {
    manager.add_subscriber(Box::new(Signals::new(Arc::clone(shutdown))?));
    manager.add_subscriber(Box::new(Wake(Arc::clone(shutdown))));
    if let Some(timeout) = limits.timeout {
        manager.add_subscriber(Box::new(Deadline::new(timeout, Arc::clone(shutdown))?));
    }
    Ok(())
}

/// Serves events until the run has ended.
fn serve(manager: &mut Manager, shutdown: &Shutdown) {
    while !shutdown.ended() {
        match manager.run() {
            Ok(_) => {}
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
            Err(error) => shutdown.end(Outcome::Failed(format!("The event loop failed: {error}"))),
        }
    }
    // What the guest sent last, before it ended itself.
    let _ = manager.run_with_timeout(0);
}

/// Ends all threads, or leaves those behind that wait for the host for too long; returns whether all have ended.
fn end(manager: Manager, workers: WorkerThreads, vcpus: Arc<VcpuThreads>) -> (ExitStatistics, bool) {
    let deadline = Instant::now() + IN_FLIGHT;
    // Before vCPUs are waited for: one may wait for a device to be reset, and does so no more when the device is gone or given up.
    drop(manager);
    workers.stop();
    vcpus.kick();
    let given_up = workers.finish(deadline);
    if !given_up.is_empty() {
        let names = given_up.join(", ");
        log::warn!("The host did not finish I/O in {IN_FLIGHT:?}, which is left behind: that of {names}");
    }
    let deadline = deadline.max(Instant::now() + LAST_CHANCE);
    let (statistics, vcpus_ended) = Arc::into_inner(vcpus).map(|vcpus| vcpus.join(deadline)).unwrap_or_default();
    (statistics, vcpus_ended && given_up.is_empty())
}

fn periodic(interval: Duration) -> io::Result<TimerFd> {
    let mut timer = TimerFd::new()?;
    timer.reset(interval, Some(interval))?;
    Ok(timer)
}

/// Registers a file for reading.
fn watch_readable(ops: &mut EventOps, events: Events, shutdown: &Shutdown) {
    if let Err(error) = ops.add(events) {
        shutdown.end(Outcome::Failed(format!("Cannot watch for events: {error}")));
    }
}

/// Makes the main thread look whether the run has ended.
struct Wake(Arc<Shutdown>);

impl MutEventSubscriber for Wake {
    fn init(&mut self, ops: &mut EventOps) {
        watch_readable(ops, Events::new(self.0.wake(), EventSet::IN), &self.0);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let _ = self.0.wake().read();
    }
}

/// Keeps signals from the calling thread and those that it starts: those that the event loop reads wait for it, and a file that
/// may not be longer is an error of the write, not the end.
pub(crate) fn reserve_signals() -> io::Result<()> {
    let signals: SigSet = END_SIGNALS.into_iter().chain([DUMP_SIGNAL, RESIZE_SIGNAL, Signal::SIGXFSZ]).collect();
    Ok(signals.thread_block()?)
}

/// Reads signals, which are reserved.
fn readable<const N: usize>(signals: [Signal; N]) -> io::Result<SignalFd> {
    let set: SigSet = signals.into_iter().collect();
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Prints the guest's maps when a signal asks for them.
struct Dump {
    fd: SignalFd,
    view: Arc<View>,
    threads: Arc<VcpuThreads>,
    shutdown: Arc<Shutdown>,
}

impl MutEventSubscriber for Dump {
    fn init(&mut self, ops: &mut EventOps) {
        watch_readable(ops, Events::new(&self.fd, EventSet::IN), &self.shutdown);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        while let Ok(Some(_)) = self.fd.read_signal() {
            // Not through the logger: this was asked for. A closed stderr has nobody to tell.
            let _ = io::stderr().write_all(self.view.describe(&self.threads.registers()).as_bytes());
        }
    }
}

/// Tells the guest of its terminal's size, whenever that changes.
struct Resize {
    fd: SignalFd,
    port: ConsoleHandle,
    shutdown: Arc<Shutdown>,
}

impl Resize {
    fn new(port: ConsoleHandle, shutdown: Arc<Shutdown>) -> io::Result<Self> {
        let resize = Self { fd: readable([RESIZE_SIGNAL])?, port, shutdown };
        resize.tell();
        Ok(resize)
    }

    fn tell(&self) {
        if let Some(size) = terminal::size() {
            self.port.resize(size);
        }
    }
}

impl MutEventSubscriber for Resize {
    fn init(&mut self, ops: &mut EventOps) {
        watch_readable(ops, Events::new(&self.fd, EventSet::IN), &self.shutdown);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        while let Ok(Some(_)) = self.fd.read_signal() {}
        self.tell();
    }
}

/// Signals that end the run.
struct Signals {
    fd: SignalFd,
    shutdown: Arc<Shutdown>,
}

impl Signals {
    fn new(shutdown: Arc<Shutdown>) -> io::Result<Self> {
        Ok(Self { fd: readable(END_SIGNALS)?, shutdown })
    }
}

impl MutEventSubscriber for Signals {
    fn init(&mut self, ops: &mut EventOps) {
        watch_readable(ops, Events::new(&self.fd, EventSet::IN), &self.shutdown);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        if let Ok(Some(signal)) = self.fd.read_signal() {
            self.shutdown.end(Outcome::Signal(signal.ssi_signo as u8));
        }
    }
}

/// `--timeout`.
struct Deadline {
    timer: TimerFd,
    shutdown: Arc<Shutdown>,
}

impl Deadline {
    fn new(timeout: Duration, shutdown: Arc<Shutdown>) -> io::Result<Self> {
        let mut timer = TimerFd::new()?;
        timer.reset(timeout, None)?;
        Ok(Self { timer, shutdown })
    }
}

impl MutEventSubscriber for Deadline {
    fn init(&mut self, ops: &mut EventOps) {
        watch_readable(ops, Events::new(&self.timer, EventSet::IN), &self.shutdown);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.shutdown.end(Outcome::TimedOut);
    }
}

/// Looks, each tick, whether the guest still lives.
struct Watchdog {
    timer: TimerFd,
    threads: Arc<VcpuThreads>,
    halted_ticks: u32,
    /// So long the guest may be silent.
    patience: Option<Duration>,
    printed: Arc<AtomicU64>,
    printed_before: u64,
    /// Ticks, not time: while the monitor is stopped, so is the guest.
    silent_ticks: u32,
    shutdown: Arc<Shutdown>,
}

impl Watchdog {
    fn new(
        timer: TimerFd,
        threads: &Arc<VcpuThreads>,
        limits: &Limits,
        printed: Arc<AtomicU64>,
        shutdown: &Arc<Shutdown>,
    ) -> Self {
        let (threads, shutdown, patience) = (Arc::clone(threads), Arc::clone(shutdown), limits.watchdog);
        Self { timer, threads, halted_ticks: 0, patience, printed, printed_before: 0, silent_ticks: 0, shutdown }
    }

    fn look(&mut self) {
        let printed = self.printed.load(Ordering::Relaxed);
        self.silent_ticks = if printed == self.printed_before { self.silent_ticks.saturating_add(1) } else { 0 };
        self.printed_before = printed;
        let silence = TICK.saturating_mul(self.silent_ticks);
        if self.shutdown.dying() && silence >= PANIC_SILENCE {
            self.shutdown.end(Outcome::Panicked);
        }
        if let Some(limit) = self.patience.filter(|&limit| silence >= limit) {
            let reason = format!("The guest gave no sign of life for {limit:?} (--watchdog)");
            self.shutdown.end(Outcome::Unresponsive(reason));
        }
        self.halted_ticks = if self.threads.ask_halted() { self.halted_ticks + 1 } else { 0 };
        if self.halted_ticks == HALTED_TICKS {
            let reason = "The guest stopped: all vCPUs are halted with interrupts disabled";
            self.shutdown.end(Outcome::Unresponsive(reason.into()));
        }
    }
}

impl MutEventSubscriber for Watchdog {
    fn init(&mut self, ops: &mut EventOps) {
        watch_readable(ops, Events::new(&self.timer, EventSet::IN), &self.shutdown);
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        debug_assert_eq!(events.fd(), self.timer.as_raw_fd());
        let _ = self.timer.wait();
        self.look();
    }
}
