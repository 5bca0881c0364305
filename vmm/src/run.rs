//! Running a machine to its end: the vCPUs in threads of their own, all else as events of the main thread.

use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps as _};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use thiserror::Error;
use vmm_sys_util::timerfd::TimerFd;

use carpel_devices::endpoint;
use carpel_devices::virtio::console::ConsoleHandle;

use crate::config::Limits;
use crate::dump::View;
use crate::input::{Input, Ports};
use crate::machine::Machine;
use crate::outcome::{Match, Outcome, Shown, Shutdown};
use crate::terminal;
use crate::threads::{ExitCounts, ExitStatistics, StartError, VcpuThreads};
use crate::virtio;
use crate::watch::Judge;

/// How often vCPUs and the console are looked after.
const TICK: Duration = Duration::from_millis(250);
/// So many ticks in a row every vCPU must be halted before the guest counts as dead.
const HALTED_TICKS: u32 = 2;
/// After a panic, a kernel that prints nothing for so long has nothing more to say.
const PANIC_SILENCE: Duration = Duration::from_millis(500);
/// How long to wait at the end for a reader that is behind before looking again, in milliseconds.
const DRAIN_WAIT: i32 = 10;
/// How long readers of the guest's consoles have for what it printed last.
const DRAIN_PRINTING: Duration = Duration::from_secs(2);
/// How long judging that may take: much longer than any guest's queues need, unless it fills them as fast.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// The same, where somebody waits for the end.
const DRAIN_HURRIED: Duration = Duration::from_millis(100);
/// Signals that end the run in order.
const END_SIGNALS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
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
}

/// What the console does in the meantime.
pub struct ConsoleState {
    /// Who judges what the guest prints.
    pub judge: Arc<Judge>,
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
    /// The line of the console that decided the run, if one did.
    pub matched: Option<Match>,
    /// The last 64 KiB of what the guest printed on its consoles, bytes as they came.
    pub console_tail: Vec<u8>,
    /// The guest's maps at its end, if they were asked for.
    pub map: Option<String>,
}

type EventLoop = EventManager<Box<dyn MutEventSubscriber>>;

impl Machine {
    /// Runs the machine until something ends it.
    pub fn run(self, limits: &Limits, console: ConsoleState, shutdown: &Arc<Shutdown>) -> Result<Facts, RunError> {
        let started = Instant::now();
        let mut manager = EventLoop::new().map_err(RunError::Events)?;
        let signals = Signals::new(Arc::clone(shutdown))?;
        let dump_signal = readable([DUMP_SIGNAL])?;
        manager.add_subscriber(Box::new(signals));
        manager.add_subscriber(Box::new(Wake(Arc::clone(shutdown))));
        let judge = console.judge;
        Silence::watch(&judge, shutdown, &mut manager);
        if let Some(timeout) = limits.timeout {
            manager.add_subscriber(Box::new(Deadline::new(timeout, Arc::clone(shutdown))?));
        }
        if let (true, Some(port)) = (console.terminal, &self.console) {
            manager.add_subscriber(Box::new(Resize::new(port.clone(), Arc::clone(shutdown))?));
        }
        if let Some(source) = console.input {
            let ports = Ports { serial: self.serial, virtio: self.console };
            manager.add_subscriber(Box::new(Input::new(source, ports, Arc::clone(shutdown), console.terminal)?));
        }
        // Once threads run, nothing may fail that would leave them behind.
        let timer = periodic(TICK)?;
        let (worker_threads, runners) = virtio::start_threads(self.runners).map_err(RunError::Threads)?;
        for runner in runners {
            manager.add_subscriber(Box::new(runner));
        }
        let threads = VcpuThreads::start(self.vcpus, &self.buses, shutdown)?;
        let threads = Arc::new(threads);
        manager.add_subscriber(Box::new(Dump {
            fd: dump_signal,
            view: Arc::clone(&self.view),
            threads: Arc::clone(&threads),
            shutdown: Arc::clone(shutdown),
        }));
        manager.add_subscriber(Box::new(Watchdog {
            timer,
            threads: Arc::clone(&threads),
            halted_ticks: 0,
            limit: limits.watchdog,
            judge: Arc::clone(&judge),
            printed_before: 0,
            silent_ticks: 0,
            shutdown: Arc::clone(shutdown),
        }));

        while !shutdown.ended() {
            turn(&mut manager, -1, shutdown);
        }
        drain(&mut manager, &judge, shutdown);
        // Before vCPUs are waited for: one may wait for a device to be reset, and does so no more when the device is gone.
        drop(manager);
        drop(worker_threads);
        let ExitStatistics { exits, registers } = Arc::into_inner(threads).map(VcpuThreads::join).unwrap_or_default();
        Ok(Facts {
            outcome: verdict(limits, &judge, shutdown),
            duration: started.elapsed(),
            exits,
            unmapped: self.buses.port.unmapped() + self.buses.mmio.unmapped(),
            printed: judge.printed(),
            matched: shutdown.matched(),
            console_tail: judge.take_tail(),
            map: limits.dump_map.then(|| self.view.describe(&registers)),
        })
    }
}

/// The outcome, once nothing more is printed.
fn verdict(limits: &Limits, judge: &Judge, shutdown: &Shutdown) -> Outcome {
    judge.finish();
    let (restarting, anything) = (judge.is_restarting(), judge.printed() > 0);
    let shown = Shown { until: limits.until.as_deref(), restarting, anything };
    shutdown.outcome(shown).unwrap_or(Outcome::PowerOff)
}

/// One turn of the event loop, which waits so many milliseconds at most (-1: as long as it takes). Returns how many events came.
fn turn(manager: &mut EventLoop, milliseconds: i32, shutdown: &Shutdown) -> usize {
    match manager.run_with_timeout(milliseconds) {
        Ok(count) => count,
        Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => 1,
        Err(error) => {
            shutdown.end(Outcome::Failed(format!("The event loop failed: {error}")));
            0
        }
    }
}

/// Takes from the devices what the guest sent last, before it ended: its consoles are judged to their end. Whoever reads them has a
/// while for it, unless a signal came or the time ran out.
fn drain(manager: &mut EventLoop, judge: &Judge, shutdown: &Shutdown) {
    let started = Instant::now();
    loop {
        let events = turn(manager, if judge.is_behind() { DRAIN_WAIT } else { 0 }, shutdown);
        if shutdown.is_settled() || events == 0 && !judge.is_behind() {
            break;
        }
        let (hurried, elapsed) = (shutdown.is_hurried(), started.elapsed());
        if hurried || elapsed >= DRAIN_PRINTING {
            judge.give_up_output();
        }
        if elapsed >= if hurried { DRAIN_HURRIED } else { DRAIN_MAX } {
            log::warn!("The end of what the guest printed was not looked at");
            break;
        }
    }
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

/// Judges lines of the console that are not finished.
struct Silence {
    timer: RawFd,
    judge: Arc<Judge>,
    shutdown: Arc<Shutdown>,
}

impl Silence {
    fn watch(judge: &Arc<Judge>, shutdown: &Arc<Shutdown>, manager: &mut EventLoop) {
        if let Some(timer) = judge.timer() {
            let (judge, shutdown) = (Arc::clone(judge), Arc::clone(shutdown));
            manager.add_subscriber(Box::new(Self { timer, judge, shutdown }));
        }
    }
}

impl MutEventSubscriber for Silence {
    fn init(&mut self, ops: &mut EventOps) {
        watch_readable(ops, Events::new(&self.timer, EventSet::IN), &self.shutdown);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.judge.tick();
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
        // Unread, it would come again as long as the loop goes on.
        let _ = self.timer.wait();
        self.shutdown.end(Outcome::TimedOut);
    }
}

/// Looks, each tick, whether the guest still lives.
struct Watchdog {
    timer: TimerFd,
    threads: Arc<VcpuThreads>,
    halted_ticks: u32,
    limit: Option<Duration>,
    judge: Arc<Judge>,
    printed_before: u64,
    /// Ticks, not time: while the monitor is stopped, so is the guest.
    silent_ticks: u32,
    shutdown: Arc<Shutdown>,
}

impl Watchdog {
    fn look(&mut self) {
        let printed = self.judge.printed();
        self.silent_ticks = if printed == self.printed_before { self.silent_ticks.saturating_add(1) } else { 0 };
        self.printed_before = printed;
        let silence = TICK.saturating_mul(self.silent_ticks);
        if self.shutdown.dying() && silence >= PANIC_SILENCE {
            self.shutdown.end(Outcome::Panicked);
        }
        if let Some(limit) = self.limit.filter(|&limit| silence >= limit) {
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
