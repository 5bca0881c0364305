//! The runner of devices, which drives one worker in an event loop, and does what the transport asks of it.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps as _};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Worker;
use super::interrupt::Interrupt;
use super::queue::{Fault, Queues, VirtQueue};
use crate::thread;

/// Data of a worker's own event sources stay below this.
pub const RESERVED_DATA: u32 = 1 << 30;
/// The transport asks something.
const REQUEST: u32 = RESERVED_DATA;
/// A queue's number stands in the other bits: the driver kicked it.
const KICK: u32 = 1 << 31;

/// So many faults of one worker's drivers are told to the user, for a guest can commit as many as it likes.
const LOGGED_FAULTS: u32 = 3;

/// How soon whoever asks a runner notices that it was given up.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A worker, its queues, and the way to it.
pub struct Runner {
    worker: Box<dyn Worker>,
    queues: Queues,
    kicks: Vec<(usize, Arc<EventFd>)>,
    requests: Receiver<Request>,
    wake: Arc<EventFd>,
    interrupt: Interrupt,
    faults: u32,
    given_up: Arc<AtomicBool>,
    failure: Failure,
}

/// The transport's end of a runner.
pub(super) struct RunnerHandle {
    requests: Sender<Request>,
    wake: Arc<EventFd>,
    /// The runner waits for the host, and nobody waits for it any more.
    given_up: Arc<AtomicBool>,
}

/// Why a worker cannot work.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The host has no thread, no ring or no memory for it.
    #[error("Cannot start a virtio device")]
    Host(#[from] io::Error),
    /// The host does not let it wait for events. The error holds its cause.
    #[error("Cannot watch the events of a virtio device: {0}")]
    Events(event_manager::Error),
}

/// What kept a runner from starting, to be asked for once an event loop has it.
#[derive(Clone, Default)]
pub struct Failure(Arc<Mutex<Option<WorkerError>>>);

impl Failure {
    /// Whether the runner works.
    pub fn check(&self) -> Result<(), WorkerError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    fn note(&self, error: WorkerError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// What the transport wants.
pub(super) enum Command {
    /// The driver is ready: these queues become active, with the negotiated features.
    Start(Vec<(usize, VirtQueue)>, u64),
    /// One more queue becomes active.
    StartQueue(usize, Box<VirtQueue>),
    /// One becomes inactive, ...
    StopQueue(usize),
    /// ... or all do.
    Stop,
}

struct Request {
    command: Command,
    done: SyncSender<()>,
}

impl RunnerHandle {
    /// Has it done. Returns when it is, or when the runner is gone or was given up.
    pub(super) fn ask(&self, command: Command) {
        let (done, finished) = sync_channel(1);
        if self.requests.send(Request { command, done }).is_ok() {
            let _ = self.wake.write(1);
            // Another error means that the runner is gone, and with it all that it did.
            while finished.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout)
                && !self.given_up.load(Ordering::Acquire)
            {}
        }
    }
}

impl Runner {
    /// A runner for a worker with these kicks, one for each of its queues.
    pub(super) fn new(
        worker: Box<dyn Worker>,
        kicks: Vec<(usize, Arc<EventFd>)>,
        interrupt: Interrupt,
    ) -> io::Result<(Self, RunnerHandle)> {
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let (sender, requests) = channel();
        let given_up = Arc::<AtomicBool>::default();
        let handle = RunnerHandle { requests: sender, wake: Arc::clone(&wake), given_up: Arc::clone(&given_up) };
        let (queues, failure) = (Queues::new(worker.queues()), Failure::default());
        interrupt.watch(&wake);
        Ok((Self { worker, queues, kicks, requests, wake, interrupt, faults: 0, given_up, failure }, handle))
    }

    /// The name of the thread that it must have for itself; none if it shares the main thread's event loop.
    pub fn thread(&self) -> Option<String> {
        self.worker.thread()
    }

    /// What will tell whether it works.
    pub fn failure(&self) -> Failure {
        self.failure.clone()
    }

    fn serve(&mut self) {
        let _ = self.wake.read();
        while let Ok(Request { command, done }) = self.requests.try_recv() {
            match command {
                Command::Start(queues, features) => {
                    self.worker.start(features);
                    for (number, queue) in queues {
                        self.start_queue(number, queue);
                    }
                }
                Command::StartQueue(number, queue) => self.start_queue(number, *queue),
                Command::StopQueue(queue) => {
                    self.stop_queue(queue);
                    // The driver may have to be told by another queue of what ends with this one.
                    self.queues.kick();
                }
                Command::Stop => self.stop(),
            }
            let _ = done.send(());
        }
    }

    fn start_queue(&mut self, number: usize, queue: VirtQueue) {
        if self.interrupt.awaits_reset() {
            return;
        }
        // What was made available before is not kicked for again.
        queue.kick();
        self.queues.set(number, Some(queue));
    }

    fn stop_queue(&mut self, queue: usize) {
        if self.queues.get(queue).is_some() {
            self.worker.stop(queue);
            self.queues.set(queue, None);
        }
    }

    fn stop(&mut self) {
        for queue in self.queues.active() {
            self.stop_queue(queue);
        }
    }

    fn kicked(&mut self, queue: usize) -> Result<(), Fault> {
        if let Some((_, kick)) = self.kicks.iter().find(|(number, _)| *number == queue) {
            let _ = kick.read();
        }
        if self.queues.get(queue).is_some() { self.worker.kick(queue, &mut self.queues) } else { Ok(()) }
    }

    /// After an error, nothing of the device goes on until its driver resets it: its other workers stop as well, once woken.
    fn fail(&mut self, fault: &Fault) {
        self.faults = self.faults.saturating_add(1);
        let level = if self.faults <= LOGGED_FAULTS { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "A virtio driver misbehaves, its device needs a reset: {fault}");
        self.stop();
        self.interrupt.needs_reset();
    }

    fn set_up(&mut self, ops: &mut EventOps) -> Result<(), WorkerError> {
        self.worker.prepare()?;
        self.add_sources(ops).map_err(WorkerError::Events)
    }

    fn add_sources(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        ops.add(Events::with_data(&*self.wake, REQUEST, EventSet::IN))?;
        for (queue, kick) in &self.kicks {
            ops.add(Events::with_data(&**kick, KICK | *queue as u32, EventSet::IN))?;
        }
        self.worker.register(ops)
    }
}

impl MutEventSubscriber for Runner {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = self.set_up(ops) {
            self.failure.note(error);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if self.interrupt.awaits_reset() {
            self.stop();
        }
        let result = match events.data() {
            REQUEST => {
                self.serve();
                Ok(())
            }
            data if data & KICK != 0 => self.kicked((data & !KICK) as usize),
            _ => self.worker.event(events, &mut self.queues, ops),
        };
        if let Err(fault) = result.and_then(|()| self.queues.end_pass()) {
            self.fail(&fault);
        }
    }
}

/// Runners in threads of their own. When dropped, they are gone; [`Self::finish`] does not wait without bound.
pub struct WorkerThreads {
    threads: Vec<WorkerThread>,
    /// Disconnected once the last thread has let go of all that it had.
    ended: Receiver<Infallible>,
    /// For the threads; none once they are waited for.
    alive: Option<Sender<Infallible>>,
}

struct WorkerThread {
    name: String,
    handle: JoinHandle<()>,
    stop: Arc<Stop>,
    started: Receiver<Result<(), WorkerError>>,
    given_up: Arc<AtomicBool>,
}

struct Stop {
    wanted: AtomicBool,
    wake: EventFd,
}

impl Default for WorkerThreads {
    fn default() -> Self {
        let (alive, ended) = channel();
        Self { threads: Vec::new(), ended, alive: Some(alive) }
    }
}

impl WorkerThreads {
    /// Starts a thread for a runner. Whether it has all that it needs, [`Self::started`] tells.
    pub fn start(&mut self, name: String, runner: Runner) -> io::Result<()> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let stop = Arc::new(Stop { wanted: AtomicBool::new(false), wake });
        let (tell, started) = sync_channel(1);
        let (shared, given_up, alive) = (Arc::clone(&stop), Arc::clone(&runner.given_up), self.alive.clone());
        let body = move || {
            run(runner, &shared, &tell);
            drop(alive);
        };
        let handle = thread::spawn(name.clone(), body)?;
        self.threads.push(WorkerThread { name, handle, stop, started, given_up });
        Ok(())
    }

    /// Waits until every runner has what it needs of the host.
    pub fn started(&self) -> Result<(), WorkerError> {
        // A thread that tells nothing has panicked, which ended the whole process.
        self.threads.iter().try_for_each(|thread| thread.started.recv().unwrap_or(Ok(())))
    }

    /// Has every runner do what the guest sent last, and end. Does not wait.
    pub fn stop(&self) {
        for WorkerThread { stop, .. } in &self.threads {
            stop.wanted.store(true, Ordering::Release);
            let _ = stop.wake.write(1);
        }
    }

    /// Waits for them until the deadline. Those that still wait for the host then are given up: their names are returned, nobody who
    /// asks them waits any more, and all that they use must stay until the process ends.
    pub fn finish(mut self, deadline: Instant) -> Vec<String> {
        self.stop();
        self.alive = None;
        let left = deadline.saturating_duration_since(Instant::now());
        let all_ended = self.ended.recv_timeout(left) == Err(RecvTimeoutError::Disconnected);
        let mut given_up = Vec::new();
        for thread in self.threads.drain(..) {
            if all_ended || thread.handle.is_finished() {
                // A panic ended the whole process.
                let _ = thread.handle.join();
            } else {
                thread.given_up.store(true, Ordering::Release);
                given_up.push(thread.name);
            }
        }
        given_up
    }
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        self.stop();
        for WorkerThread { handle, .. } in self.threads.drain(..) {
            // A panic ended the whole process.
            let _ = handle.join();
        }
    }
}

fn run(runner: Runner, stop: &Arc<Stop>, tell: &SyncSender<Result<(), WorkerError>>) {
    let failures = [Failure::default(), runner.failure()];
    let mut manager = match EventManager::<Box<dyn MutEventSubscriber>>::new() {
        Ok(manager) => manager,
        Err(error) => {
            let _ = tell.send(Err(WorkerError::Events(error)));
            return;
        }
    };
    manager.add_subscriber(Box::new(Stopping { stop: Arc::clone(stop), failure: failures[0].clone() }));
    manager.add_subscriber(Box::new(runner));
    let started = failures.iter().try_for_each(Failure::check);
    let works = started.is_ok();
    let _ = tell.send(started);
    while works && !stop.wanted.load(Ordering::Acquire) {
        // Interrupted by a signal or not, there is nothing to do but to look again.
        let _ = manager.run();
    }
    // What the guest sent last, before it ended itself.
    let _ = manager.run_with_timeout(0);
}

/// Wakes the thread when it is to end.
struct Stopping {
    stop: Arc<Stop>,
    failure: Failure,
}

impl MutEventSubscriber for Stopping {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.stop.wake, EventSet::IN)) {
            self.failure.note(WorkerError::Events(error));
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let _ = self.stop.wake.read();
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::virtio::VirtioDevice;
    use crate::virtio::testing::{Guest, register};

    /// Tells of each kick, and then waits as long as there is somebody to let it go on.
    struct Waiting {
        kicked: mpsc::Sender<usize>,
        go_on: Receiver<()>,
    }

    impl Worker for Waiting {
        fn queues(&self) -> Range<usize> {
            0..2
        }

        fn kick(&mut self, queue: usize, _queues: &mut Queues) -> Result<(), Fault> {
            self.kicked.send(queue).unwrap();
            let _ = self.go_on.recv();
            Ok(())
        }
    }

    struct Device(Option<Waiting>);

    impl VirtioDevice for Device {
        fn device_type(&self) -> u32 {
            42
        }

        fn queue_sizes(&self) -> Vec<u16> {
            vec![16; 2]
        }

        fn workers(&mut self, _interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
            self.0.take().into_iter().map(|worker| Box::new(worker) as Box<dyn Worker>).collect()
        }
    }

    #[test]
    fn what_the_guest_sent_before_its_end_is_served() {
        let ((kicked, kicks), (go, go_on)) = (channel(), channel());
        let mut guest = Guest::new(Box::new(Device(Some(Waiting { kicked, go_on }))));
        guest.start();
        // Queues are looked at when they start.
        for _ in 0..2 {
            kicks.recv().unwrap();
            go.send(()).unwrap();
        }
        guest.kick(0);
        assert_eq!(kicks.recv(), Ok(0));
        guest.kick(1);
        let end = thread::spawn(move || drop(guest));
        thread::sleep(Duration::from_millis(50));
        drop(go);
        end.join().unwrap();
        assert_eq!(kicks.try_recv(), Ok(1));
    }

    /// A worker that waits for the host without end, while a driver waits for its reset, and another that can end.
    #[test]
    fn what_waits_for_the_host_is_given_up() {
        let ((kicked, kicks), (go, go_on)) = (channel(), channel());
        let mut guest = Guest::new(Box::new(Device(Some(Waiting { kicked, go_on }))));
        guest.start();
        assert_eq!(kicks.recv(), Ok(0));
        let threads = std::mem::take(&mut guest.threads);
        let reset = thread::spawn(move || {
            guest.write(register::STATUS, 0);
            drop(guest);
        });
        let started = Instant::now();
        assert_eq!(threads.finish(started + Duration::from_millis(200)), ["runner"]);
        assert!(started.elapsed() >= Duration::from_millis(200));
        reset.join().unwrap();
        drop(go);
    }

    /// What the host does not have for a worker.
    struct Poor;

    impl Worker for Poor {
        fn queues(&self) -> Range<usize> {
            0..1
        }

        fn prepare(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::OutOfMemory.into())
        }

        fn kick(&mut self, _queue: usize, _queues: &mut Queues) -> Result<(), Fault> {
            unreachable!("It never started");
        }
    }

    #[test]
    fn a_worker_that_cannot_start_is_told_and_ends() {
        let interrupt = Interrupt::new(Box::new(crate::interrupt::IrqLine::new().unwrap()));
        let (runner, handle) = Runner::new(Box::new(Poor), Vec::new(), interrupt).unwrap();
        let mut threads = WorkerThreads::default();
        threads.start("poor".into(), runner).unwrap();
        assert_eq!(threads.started().unwrap_err().to_string(), "Cannot start a virtio device");
        handle.ask(Command::Stop);
        assert!(threads.finish(Instant::now() + Duration::from_secs(20)).is_empty());
    }
}
