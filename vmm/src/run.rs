//! Running a machine to its end: the vCPUs in threads of their own, all else as events of the main thread.

use std::io;
use std::os::fd::AsRawFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps as _};
use thiserror::Error;
use vmm_sys_util::timerfd::TimerFd;

use carpel_devices::endpoint;

use crate::config::Limits;
use crate::input::{Input, Ports};
use crate::machine::Machine;
use crate::outcome::{Outcome, Shutdown};
use crate::parent::{Parent, ParentWatch};
use crate::signals::{self, Dump, Signals};
use crate::terminal::Terminal;
use crate::threads::{ExitCounts, ExitStatistics, StartError, VcpuThreads};
use crate::virtio;

/// How often vCPUs and the console are looked after.
const TICK: Duration = Duration::from_millis(250);
/// So many ticks in a row every vCPU must be halted before the guest counts as dead.
const HALTED_TICKS: u32 = 2;
/// After a panic, a kernel that prints nothing for so long has nothing more to say.
const PANIC_SILENCE: Duration = Duration::from_millis(500);

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
    /// How many bytes the guest has printed.
    pub printed: Arc<AtomicU64>,
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
    /// The guest's maps at its end, if they were asked for.
    pub map: Option<String>,
}

impl Machine {
    /// Runs the machine until something ends it: also the end of `parent`, if there is one.
    pub fn run(
        self,
        limits: &Limits,
        console: ConsoleState,
        parent: Option<Parent>,
        shutdown: &Arc<Shutdown>,
    ) -> Result<Facts, RunError> {
        let started = Instant::now();
        let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(RunError::Events)?;
        let terminal = console.terminal.map(|terminal| Rc::new(terminal.with_port(self.console.clone())));
        let dump_signal = signals::dump_signal()?;
        manager.add_subscriber(Box::new(Signals::new(terminal.clone(), Arc::clone(shutdown))?));
        manager.add_subscriber(Box::new(Wake(Arc::clone(shutdown))));
        if let Some(parent) = parent {
            manager.add_subscriber(Box::new(ParentWatch { parent, shutdown: Arc::clone(shutdown) }));
        }
        if let Some(timeout) = limits.timeout {
            manager.add_subscriber(Box::new(Deadline::new(timeout, Arc::clone(shutdown))?));
        }
        if let Some(source) = console.input {
            let ports = Ports { serial: self.serial, virtio: self.console };
            manager.add_subscriber(Box::new(Input::new(source, ports, Arc::clone(shutdown), terminal)?));
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
            watchdog: limits.watchdog,
            printed: Arc::clone(&console.printed),
            printed_before: 0,
            silent_ticks: 0,
            shutdown: Arc::clone(shutdown),
        }));

        while !shutdown.ended() {
            match manager.run() {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => {}
                Err(error) => shutdown.end(Outcome::Failed(format!("The event loop failed: {error}"))),
            }
        }
        // What the guest sent last, before it ended itself.
        let _ = manager.run_with_timeout(0);
        // Before vCPUs are waited for: one may wait for a device to be reset, and does so no more when the device is gone.
        drop(manager);
        drop(worker_threads);
        let ExitStatistics { exits, registers } = Arc::into_inner(threads).map(VcpuThreads::join).unwrap_or_default();
        Ok(Facts {
            outcome: shutdown.outcome().unwrap_or(Outcome::PowerOff),
            duration: started.elapsed(),
            exits,
            unmapped: self.buses.port.unmapped() + self.buses.mmio.unmapped(),
            printed: console.printed.load(Ordering::Relaxed),
            map: limits.dump_map.then(|| self.view.describe(&registers)),
        })
    }
}

/// A timer that comes again and again.
pub(crate) fn periodic(interval: Duration) -> io::Result<TimerFd> {
    let mut timer = TimerFd::new()?;
    timer.reset(interval, Some(interval))?;
    Ok(timer)
}

/// Registers a file for reading.
pub(crate) fn watch_readable(ops: &mut EventOps, events: Events, shutdown: &Shutdown) {
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
    watchdog: Option<Duration>,
    printed: Arc<AtomicU64>,
    printed_before: u64,
    /// Ticks, not time: while the monitor is stopped, so is the guest.
    silent_ticks: u32,
    shutdown: Arc<Shutdown>,
}

impl Watchdog {
    fn look(&mut self) {
        let printed = self.printed.load(Ordering::Relaxed);
        self.silent_ticks = if printed == self.printed_before { self.silent_ticks.saturating_add(1) } else { 0 };
        self.printed_before = printed;
        let silence = TICK.saturating_mul(self.silent_ticks);
        if self.shutdown.dying() && silence >= PANIC_SILENCE {
            self.shutdown.end(Outcome::Panicked);
        }
        if let Some(limit) = self.watchdog.filter(|&limit| silence >= limit) {
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
