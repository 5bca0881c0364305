//! How requests are brought before the host, many at a time.

mod threads;
mod uring;

use std::sync::Arc;

use event_manager::EventOps;

use super::raw::RawImage;
use super::request::{Operation, Refusal};
use super::storage::Disk;
use crate::virtio::chain::Chain;
use threads::Pool;
use uring::Uring;

/// By which engine a disk's requests are performed.
#[derive(Clone)]
pub enum Choice {
    /// io_uring, on the image whose file holds the disk's very bytes; threads where the host does not have it.
    Uring(Arc<RawImage>),
    /// Threads, by the disk's storage.
    Threads,
}

/// A request that was checked.
pub struct Request {
    pub chain: Chain,
    pub operation: Operation,
}

/// A request that is done.
pub struct Done {
    pub chain: Chain,
    /// How many bytes of the answer are written, from the first on and without the status.
    pub result: Result<u64, Refusal>,
}

/// Performs requests in any order. One queue's worker owns it and calls it in one thread.
pub trait Engine: Send {
    /// Has the worker's `event` called with `data` when requests are done.
    fn register(&self, data: u32, ops: &mut EventOps) -> Result<(), event_manager::Error>;

    /// Takes note of the event, before it is looked what is done.
    fn rung(&self) {}

    /// Takes a request; it may wait for [`Self::submit`].
    fn start(&mut self, request: Request);

    /// Hands to the host what was started.
    fn submit(&mut self);

    /// The next request that is done.
    fn done(&mut self) -> Option<Done>;

    /// Waits until nothing is in flight, and forgets all that is done.
    fn stop(&mut self);
}

/// An engine for up to `most` requests of a disk at a time.
pub fn new(choice: &Choice, disk: &Arc<Disk>, most: u16) -> std::io::Result<Box<dyn Engine>> {
    if let Choice::Uring(image) = choice {
        match Uring::new(Arc::clone(disk), Arc::clone(image), most) {
            Ok(engine) => return Ok(Box::new(engine)),
            Err(error) => log::debug!("The host has no io_uring for disks, which get threads instead: {error}"),
        }
    }
    Ok(Box::new(Pool::new(disk)?))
}

impl Request {
    /// Does it, and waits meanwhile.
    fn perform(self, disk: &Disk) -> Done {
        let result = self.operation.perform(&self.chain, disk);
        self.done(result)
    }

    /// It is done.
    fn done(self, result: Result<(), Refusal>) -> Done {
        Done { result: result.map(|()| self.operation.written(&self.chain)), chain: self.chain }
    }
}
