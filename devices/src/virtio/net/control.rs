//! The control queue (section 5.1.6.5), whose one command says how many queue pairs the driver uses.

use std::ops::Range;
use std::sync::Arc;

use virtio_bindings::virtio_net::{VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK};

use super::link::Link;
use crate::virtio::Worker;
use crate::virtio::queue::{Fault, Queues, VirtQueue};

/// Serves the control queue where it is when several queue pairs are negotiated: behind the last.
pub struct ControlWorker {
    pub links: Vec<Arc<dyn Link>>,
}

impl Worker for ControlWorker {
    fn queues(&self) -> Range<usize> {
        let number = 2 * self.links.len();
        number..number + 1
    }

    /// Until the driver says otherwise, it uses the first pair.
    fn start(&mut self, _features: u64) {
        self.attach(1);
    }

    fn kick(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Fault> {
        let Some(queue) = queues.get(queue) else { return Ok(()) };
        answer(queue, |pairs| (1..=self.links.len()).contains(&pairs) && self.attach(pairs))
    }
}

impl ControlWorker {
    /// Has frames come by the first queue pairs only; returns whether they do.
    fn attach(&self, pairs: usize) -> bool {
        let results = self.links.iter().enumerate().map(|(number, link)| link.attach(number < pairs));
        // All are tried.
        results.fold(true, |good, result| {
            if let Err(error) = &result {
                log::debug!("Cannot use {pairs} queue pair(s) of a tap: {error}");
            }
            good && result.is_ok()
        })
    }
}

/// Answers the commands of a control queue; `set_pairs` takes a number of queue pairs and returns whether they are used.
pub fn answer(queue: &mut VirtQueue, mut set_pairs: impl FnMut(usize) -> bool) -> Result<(), Fault> {
    while let Some(chain) = queue.pop()? {
        let mut command = [0; 4];
        let length = chain.readable().read(0, &mut command)?;
        let [class, number, low, high] = command;
        let is_known = length == command.len()
            && u32::from(class) == VIRTIO_NET_CTRL_MQ
            && u32::from(number) == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
        let done = is_known && set_pairs(u16::from_le_bytes([low, high]).into());
        let status = if done { VIRTIO_NET_OK } else { VIRTIO_NET_ERR };
        let written = chain.writable().write(0, &[status as u8])?;
        queue.complete(chain, written as u32)?;
    }
    Ok(())
}
