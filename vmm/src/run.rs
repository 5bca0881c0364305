//! Running a machine to its end: the vCPUs in threads of their own, all else as events of the main thread.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps as _};
use thiserror::Error;
use vmm_sys_util::timerfd::TimerFd;

use carpel_devices::endpoint;
use carpel_devices::virtio::runner::{WorkerError, WorkerThreads};

use crate::config::Limits;
use crate::dump::View;
use crate::dump_request::DumpRequest;
use crate::end::{Guard, IN_FLIGHT};
use crate::events::{periodic, watch_readable};
use crate::exit::Buses;
use crate::input::{Input, Ports};
use crate::machine::{Foundation, Machine};
use crate::outcome::{Match, Outcome, Shown, Shutdown};
use crate::parent::{Parent, ParentWatch};
use crate::signals::{self, Signals};
use crate::terminal::Terminal;
use crate::threads::{ExitCounts, ExitStatistics, StartError, VcpuThreads};
use crate::virtio;
use crate::watch::Judge;

/// How often vCPUs and the console are looked after.
const TICK: Duration = Duration::from_millis(250);
/// So many ticks in a row every vCPU must be halted before the guest counts as dead.
const HALTED_TICKS: u32 = 2;
/// After a panic, a kernel that prints nothing for so long has nothing more to say.
const PANIC_SILENCE: Duration = Duration::from_millis(500);
/// vCPUs leave within microseconds, unless they wait for the host.
const LAST_CHANCE: Duration = Duration::from_millis(250);
/// How long to wait at the end for a reader that is behind before looking again, in milliseconds.
const DRAIN_WAIT: i32 = 10;
/// How long readers of the guest's consoles have for what it printed last.
const DRAIN_PRINTING: Duration = Duration::from_secs(2);
/// How long judging that may take: much longer than any guest's queues need, unless it fills them as fast.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// The same, where somebody waits for the end.
const DRAIN_HURRIED: Duration = Duration::from_millis(100);

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
    /// Who judges what the guest prints.
    pub judge: Arc<Judge>,
    /// Where the guest's input comes from, if there is any.
    pub input: Option<endpoint::Input>,
    /// The user's terminal, if the input comes from there: it has an escape key and a size.
    pub terminal: Option<Terminal>,
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

/// What is left of a machine whose run has ended. To let go of it may wait for the host, which must not hold up what is told of the
/// run.
pub struct Remains {
    _machine: Option<(Arc<Buses>, Arc<View>, Foundation)>,
}

/// The main thread's events.
type EventLoop = EventManager<Box<dyn MutEventSubscriber>>;

impl Machine {
    /// Runs the machine until something ends it: also the end of `parent`, if there is one.
    pub fn run(
        self,
        limits: &Limits,
        console: ConsoleState,
        parent: Option<Parent>,
        shutdown: &Arc<Shutdown>,
        guard: &Guard,
    ) -> Result<(Facts, Remains), RunError> {
        let started = Instant::now();
        guard.run_begins(limits.timeout);
        let mut manager = EventLoop::new().map_err(RunError::Events)?;
        let (worker_threads, runners) = virtio::start_threads(self.runners).map_err(RunError::Threads)?;
        let dump_signal = signals::dump_signal()?;
        let judge = Arc::clone(&console.judge);
        let ports = Ports { serial: self.serial, virtio: self.console };
        listen(&mut manager, limits, console, ports, parent, shutdown)?;
        let timer = periodic(TICK)?;
        for runner in runners {
            let failure = runner.failure();
            manager.add_subscriber(Box::new(runner));
            failure.check()?;
        }
        // No vCPU runs before all that serves it is there.
        worker_threads.started()?;
        let threads = Arc::new(self.vcpus.run(&self.buses, shutdown)?);
        manager.add_subscriber(Box::new(DumpRequest {
            fd: dump_signal,
            view: Arc::clone(&self.view),
            threads: Arc::clone(&threads),
            shutdown: Arc::clone(shutdown),
        }));
        manager.add_subscriber(Box::new(Watchdog::new(timer, &threads, limits, &judge, shutdown)));

        while !shutdown.ended() {
            turn(&mut manager, -1, shutdown);
        }
        drain(&mut manager, &judge, shutdown);
        guard.end_begins();
        let (ExitStatistics { exits, registers }, all_ended) = end(manager, worker_threads, threads);
        if limits.dump_map {
            guard.end_pauses();
        }
        let facts = Facts {
            outcome: verdict(limits, &judge, shutdown),
            duration: started.elapsed(),
            exits,
            unmapped: self.buses.port.unmapped() + self.buses.mmio.unmapped(),
            printed: judge.printed(),
            matched: shutdown.matched(),
            console_tail: judge.take_tail(),
            map: limits.dump_map.then(|| self.view.describe(&registers)),
        };
        Ok((facts, Remains::new((self.buses, self.view, self.foundation), all_ended)))
    }
}

impl Remains {
    /// What all threads have let go of; what was left behind still uses it, until the process ends.
    fn new(machine: (Arc<Buses>, Arc<View>, Foundation), all_ended: bool) -> Self {
        if all_ended {
            return Self { _machine: Some(machine) };
        }
        std::mem::forget(machine);
        Self { _machine: None }
    }
}

/// Has the event loop heed all that is not the guest's: signals, limits, the parent, the user's input.
fn listen(
    manager: &mut EventLoop,
    limits: &Limits,
    console: ConsoleState,
    ports: Ports,
    parent: Option<Parent>,
    shutdown: &Arc<Shutdown>,
) -> Result<(), RunError> {
    let ConsoleState { judge, input, terminal } = console;
    let terminal = terminal.map(|terminal| Rc::new(terminal.with_port(ports.virtio.clone())));
    manager.add_subscriber(Box::new(Signals::new(terminal.clone(), Arc::clone(shutdown))?));
    Silence::watch(&judge, shutdown, manager);
    add_limits(manager, limits, shutdown)?;
    if let Some(parent) = parent {
        manager.add_subscriber(Box::new(ParentWatch { parent, shutdown: Arc::clone(shutdown) }));
    }
    if let Some(source) = input {
        manager.add_subscriber(Box::new(Input::new(source, ports, Arc::clone(shutdown), terminal)?));
    }
    Ok(())
}

/// What ends the run beside the guest and signals.
fn add_limits(manager: &mut EventLoop, limits: &Limits, shutdown: &Arc<Shutdown>) -> Result<(), RunError> {
    manager.add_subscriber(Box::new(Wake(Arc::clone(shutdown))));
    if let Some(timeout) = limits.timeout {
        manager.add_subscriber(Box::new(Deadline::new(timeout, Arc::clone(shutdown))?));
    }
    Ok(())
}

/// Ends all threads, or leaves those behind that wait for the host for too long; returns whether all have ended.
fn end(manager: EventLoop, workers: WorkerThreads, vcpus: Arc<VcpuThreads>) -> (ExitStatistics, bool) {
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
    fn new(
        timer: TimerFd,
        threads: &Arc<VcpuThreads>,
        limits: &Limits,
        judge: &Arc<Judge>,
        shutdown: &Arc<Shutdown>,
    ) -> Self {
        Self {
            timer,
            threads: Arc::clone(threads),
            halted_ticks: 0,
            limit: limits.watchdog,
            judge: Arc::clone(judge),
            printed_before: 0,
            silent_ticks: 0,
            shutdown: Arc::clone(shutdown),
        }
    }

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
