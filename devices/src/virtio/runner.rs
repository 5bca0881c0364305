//! The runner of devices, which drives one worker in an event loop, and does what the transport asks of it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps as _};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Worker;
use super::interrupt::Interrupt;
use super::queue::{Fault, Queues, VirtQueue};

/// Data of a worker's own event sources stay below this.
pub const RESERVED_DATA: u32 = 1 << 30;
/// The transport asks something.
const REQUEST: u32 = RESERVED_DATA;
/// A queue's number stands in the other bits: the driver kicked it.
const KICK: u32 = 1 << 31;

/// So many faults of one worker's drivers are told to the user, for a guest can commit as many as it likes.
const LOGGED_FAULTS: u32 = 3;

/// A worker, its queues, and the way to it.
pub struct Runner {
    worker: Box<dyn Worker>,
    queues: Queues,
    kicks: Vec<(usize, Arc<EventFd>)>,
    requests: Receiver<Request>,
    wake: Arc<EventFd>,
    interrupt: Interrupt,
    faults: u32,
}

/// The transport's end of a runner.
pub(super) struct RunnerHandle {
    requests: Sender<Request>,
    wake: Arc<EventFd>,
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
    /// Has it done. Returns when it is, or when the runner is gone.
    pub(super) fn ask(&self, command: Command) {
        let (done, finished) = sync_channel(1);
        if self.requests.send(Request { command, done }).is_ok() {
            let _ = self.wake.write(1);
            // An error means that the runner is gone, and with it all that it did.
            let _ = finished.recv();
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
        let handle = RunnerHandle { requests: sender, wake: Arc::clone(&wake) };
        let queues = Queues::new(worker.queues());
        Ok((Self { worker, queues, kicks, requests, wake, interrupt, faults: 0 }, handle))
    }

    /// The name of the thread that it must have for itself; none if it shares the main thread's event loop.
    pub fn thread(&self) -> Option<String> {
        self.worker.thread()
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
                Command::StopQueue(queue) => self.stop_queue(queue),
                Command::Stop => self.stop(),
            }
            let _ = done.send(());
        }
    }

    fn start_queue(&mut self, number: usize, queue: VirtQueue) {
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

    /// After an error, nothing of the device goes on until its driver resets it.
    fn fail(&mut self, fault: &Fault) {
        self.faults = self.faults.saturating_add(1);
        let level = if self.faults <= LOGGED_FAULTS { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "A virtio driver misbehaves, its device needs a reset: {fault}");
        self.stop();
        self.interrupt.needs_reset();
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
        if let Err(error) = self.add_sources(ops) {
            log::error!("A virtio device does not work: {error}");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
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

/// Runners in threads of their own, until dropped.
#[derive(Default)]
pub struct WorkerThreads(Vec<LaneThread>);

struct LaneThread {
    handle: JoinHandle<()>,
    stop: Arc<Stop>,
}

struct Stop {
    wanted: AtomicBool,
    wake: EventFd,
}

impl WorkerThreads {
    /// Starts a thread for a runner.
    pub fn start(&mut self, name: String, runner: Runner) -> io::Result<()> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let stop = Arc::new(Stop { wanted: AtomicBool::new(false), wake });
        let shared = Arc::clone(&stop);
        let handle = thread::Builder::new().name(name).spawn(move || run(runner, &shared))?;
        self.0.push(LaneThread { handle, stop });
        Ok(())
    }
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        for LaneThread { stop, .. } in &self.0 {
            stop.wanted.store(true, Ordering::Release);
            let _ = stop.wake.write(1);
        }
        for LaneThread { handle, .. } in self.0.drain(..) {
            // A panic ended the whole process.
            let _ = handle.join();
        }
    }
}

fn run(runner: Runner, stop: &Arc<Stop>) {
    let Ok(mut manager) = EventManager::<Box<dyn MutEventSubscriber>>::new() else {
        log::error!("A virtio device does not work: its event loop cannot be made");
        return;
    };
    manager.add_subscriber(Box::new(Arc::clone(stop)));
    manager.add_subscriber(Box::new(runner));
    while !stop.wanted.load(Ordering::Acquire) {
        // Interrupted by a signal or not, there is nothing to do but to look again.
        let _ = manager.run();
    }
    // What the guest sent last, before it ended itself.
    let _ = manager.run_with_timeout(0);
}

impl event_manager::EventSubscriber for Stop {
    fn init(&self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.wake, EventSet::IN)) {
            log::error!("A virtio device's thread does not stop: {error}");
        }
    }

    fn process(&self, _events: Events, _ops: &mut EventOps) {
        let _ = self.wake.read();
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::virtio::VirtioDevice;
    use crate::virtio::testing::Guest;

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
}
