//! Serving a queue of requests, in a thread of its own.

use std::ops::Range;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_S_OK};

use super::request::{Operation, Refusal, room};
use super::storage::Disk;
use crate::virtio::Worker;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Fault, Queues};

/// The worker of one queue.
pub struct BlkWorker {
    disk: Arc<Disk>,
    queue: usize,
    /// The driver does not flush: a write that is answered must be on disk (section 5.2.6.2).
    write_through: bool,
}

impl BlkWorker {
    /// A worker for this queue of the disk.
    pub fn new(disk: Arc<Disk>, queue: usize) -> Self {
        Self { disk, queue, write_through: false }
    }

    fn serve(&self, chain: &Chain) -> Result<u32, Fault> {
        let operation = Operation::parse(chain, &self.disk)?;
        let result = operation.and_then(|operation| {
            operation.perform(chain, &self.disk)?;
            if self.write_through && matches!(operation, Operation::Write { .. }) {
                Operation::Flush.perform(chain, &self.disk)?;
            }
            Ok(())
        });
        answer(chain, result)
    }
}

/// Writes the status; returns how many bytes of the chain are written.
fn answer(chain: &Chain, result: Result<(), Refusal>) -> Result<u32, Fault> {
    let status = result.map_or_else(|refusal| refusal as u8, |()| VIRTIO_BLK_S_OK as u8);
    let before = room(chain);
    chain.writable().write(before, &[status])?;
    // What an error leaves in the buffers may be anything, and is not to be read.
    Ok(before as u32 + 1)
}

impl Worker for BlkWorker {
    fn thread(&self) -> Option<String> {
        Some(format!("blk-{}", self.queue))
    }

    fn queues(&self) -> Range<usize> {
        self.queue..self.queue + 1
    }

    fn start(&mut self, features: u64) {
        self.write_through = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
    }

    fn kick(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Fault> {
        let Some(queue) = queues.get(queue) else { return Ok(()) };
        while let Some(chain) = queue.pop()? {
            let written = self.serve(&chain)?;
            queue.complete(chain, written)?;
        }
        Ok(())
    }
}
