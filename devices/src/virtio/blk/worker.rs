//! Serving a queue of requests, in a thread of its own.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use event_manager::{EventOps, Events};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_S_OK};

use super::engine::{self, Choice, Done, Engine, Request};
use super::request::{Operation, Refusal, room};
use super::storage::Disk;
use crate::virtio::Worker;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Fault, Queues, VirtQueue};
use crate::virtio::rate::RateLimiter;

/// Data of the worker's events: requests are done, ...
const DONE: u32 = 0;
/// ... or the limits let it go on.
const BYTES: u32 = 1;
const OPERATIONS: u32 = 2;

/// How much a queue may do.
pub struct Limits {
    /// Bytes per second.
    pub bytes: RateLimiter,
    /// Requests per second.
    pub operations: RateLimiter,
}

/// The worker of one queue.
pub struct BlkWorker {
    disk: Arc<Disk>,
    queue: usize,
    size: u16,
    choice: Choice,
    /// Made in the worker's own thread.
    engine: Option<Box<dyn Engine>>,
    limits: Limits,
    /// The driver does not flush: a write that is answered must be on disk (section 5.2.6.2).
    durable: bool,
}

impl BlkWorker {
    /// A worker for this queue of the disk, which has up to `size` entries.
    pub fn new(disk: Arc<Disk>, queue: usize, size: u16, choice: Choice, limits: Limits) -> Self {
        Self { disk, queue, size, choice, engine: None, limits, durable: false }
    }

    /// Starts what the driver made available, and answers what is done.
    fn serve(&mut self, queue: &mut VirtQueue) -> Result<(), Fault> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        while self.limits.bytes.ready() && self.limits.operations.ready() {
            let Some(chain) = queue.pop()? else { break };
            self.limits.operations.spend(1);
            match Operation::parse(&chain, &self.disk, self.durable)? {
                Ok(operation) => {
                    self.limits.bytes.spend(operation.rated());
                    engine.start(Request { chain, operation });
                }
                Err(refusal) => answer(queue, chain, Err(refusal))?,
            }
        }
        engine.submit();
        while let Some(Done { chain, result }) = engine.done() {
            answer(queue, chain, result)?;
        }
        Ok(())
    }
}

/// Writes the status and gives the chain back.
fn answer(queue: &mut VirtQueue, chain: Chain, result: Result<u64, Refusal>) -> Result<(), Fault> {
    let status = result.map_or_else(|refusal| refusal as u8, |_| VIRTIO_BLK_S_OK as u8);
    let before = room(&chain);
    chain.writable().write(before, &[status])?;
    // The driver may rely on as many bytes as it is told, from the first on (section 2.7.8.2): what an error leaves in the buffers
    // may be anything, and the status, which is the last byte, counts only where no gap is before it.
    let written = result.unwrap_or(0);
    queue.complete(chain, if written == before { before + 1 } else { written } as u32)
}

impl Worker for BlkWorker {
    fn thread(&self) -> Option<String> {
        Some(format!("blk-{}", self.queue))
    }

    fn queues(&self) -> Range<usize> {
        self.queue..self.queue + 1
    }

    fn prepare(&mut self) -> io::Result<()> {
        self.engine = Some(engine::new(&self.choice, &self.disk, self.size)?);
        Ok(())
    }

    fn register(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        self.engine.iter().try_for_each(|engine| engine.register(DONE, ops))?;
        self.limits.bytes.register(BYTES, ops)?;
        self.limits.operations.register(OPERATIONS, ops)
    }

    fn start(&mut self, features: u64) {
        self.durable = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
    }

    fn kick(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Fault> {
        queues.get(queue).map_or(Ok(()), |queue| self.serve(queue))
    }

    fn event(&mut self, events: Events, queues: &mut Queues, _ops: &mut EventOps) -> Result<(), Fault> {
        match events.data() {
            BYTES => self.limits.bytes.rung(),
            OPERATIONS => self.limits.operations.rung(),
            // Also without a queue: what was done just before a reset rings afterwards, and would do so without end.
            _ => self.engine.iter().for_each(|engine| engine.rung()),
        }
        self.kick(self.queue, queues)
    }

    fn stop(&mut self, _queue: usize) {
        if let Some(engine) = &mut self.engine {
            engine.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use event_manager::{EventManager, MutEventSubscriber, SubscriberOps as _};
    use vm_memory::GuestMemoryMmap;

    use super::super::raw::RawImage;
    use super::super::request::ID_BYTES;
    use super::*;

    /// A worker whose queue is inactive.
    struct Idle(BlkWorker, Queues);

    impl MutEventSubscriber for Idle {
        fn init(&mut self, ops: &mut EventOps) {
            self.0.prepare().unwrap();
            self.0.register(ops).unwrap();
        }

        fn process(&mut self, events: Events, ops: &mut EventOps) {
            self.0.event(events, &mut self.1, ops).unwrap();
        }
    }

    #[test]
    fn what_was_done_before_a_reset_rings_once() {
        let image = Arc::new(RawImage::temporary(4096).unwrap());
        for (name, choice) in [("uring", Choice::Uring(Arc::clone(&image))), ("threads", Choice::Threads)] {
            let disk = Arc::new(Disk::new("disk".into(), image.clone(), false, [0; ID_BYTES]));
            let none = || RateLimiter::new(None).unwrap();
            let worker = BlkWorker::new(disk, 0, 16, choice, Limits { bytes: none(), operations: none() });
            let mut manager = EventManager::new().unwrap();
            let id = manager.add_subscriber(Idle(worker, Queues::new(0..1)));

            let Idle(worker, _) = manager.subscriber_mut(id).unwrap();
            let memory = Arc::new(GuestMemoryMmap::new());
            let chain = Chain { head: 0, memory, buffers: Vec::new(), readable: 0 };
            let engine = worker.engine.as_mut().unwrap();
            engine.start(Request { chain, operation: Operation::Flush });
            engine.submit();
            worker.stop(0);

            // A thread rings after it has handed over what is done.
            thread::sleep(Duration::from_millis(20));
            let rings = (0..10).take_while(|_| manager.run_with_timeout(0).unwrap() > 0).count();
            assert!(rings <= 1, "{name}: {rings}");
        }
    }
}
