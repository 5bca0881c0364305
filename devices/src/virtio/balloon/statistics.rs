//! What the guest says of its memory (section 5.5.6.3): it keeps a buffer with the device, which gives it back to ask.

use std::io;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events};
use vmm_sys_util::timerfd::TimerFd;

use crate::virtio::chain::Chain;
use crate::virtio::queue::{Fault, VirtQueue};

/// What the tags mean (section 5.5.6.4); those of memory count bytes.
const NAMES: [&str; 10] = [
    "swapped in",
    "swapped out",
    "major faults",
    "minor faults",
    "free",
    "total",
    "available",
    "caches",
    "huge pages allocated",
    "huge pages refused",
];
/// A tag of 2 bytes and a value of 8.
const ENTRY: usize = 10;

/// Asks for statistics and logs them.
pub struct Statistics {
    timer: Option<TimerFd>,
    held: Option<Chain>,
    /// An answer is expected: what a driver says without being asked is not told.
    asked: bool,
}

impl Statistics {
    /// Asks every so often, or never.
    pub fn new(interval: Option<Duration>) -> io::Result<Self> {
        let timer = match interval {
            Some(interval) => {
                let mut timer = TimerFd::new()?;
                timer.reset(interval, Some(interval))?;
                Some(timer)
            }
            None => None,
        };
        Ok(Self { timer, held: None, asked: false })
    }

    /// Has the worker's `event` called with `data` when it is time to ask.
    pub fn register(&self, data: u32, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        self.timer.as_ref().map_or(Ok(()), |timer| ops.add(Events::with_data(timer, data, EventSet::IN)))
    }

    /// Takes the buffers that the driver made available, and keeps the last.
    pub fn answer(&mut self, queue: &mut VirtQueue) -> Result<(), Fault> {
        while let Some(chain) = queue.pop()? {
            if std::mem::take(&mut self.asked) {
                let mut bytes = [0; ENTRY * NAMES.len()];
                let length = chain.readable().read(0, &mut bytes)?;
                log::info!("The guest's memory: {}", describe(&bytes[..length]));
            }
            if let Some(before) = self.held.replace(chain) {
                queue.complete(before, 0)?;
            }
        }
        Ok(())
    }

    /// It is time to ask.
    pub fn ask(&mut self, queue: Option<&mut VirtQueue>) -> Result<(), Fault> {
        if let Some(timer) = &mut self.timer {
            let _ = timer.wait();
        }
        if let Some(queue) = queue
            && let Some(chain) = self.held.take()
        {
            self.asked = true;
            queue.complete(chain, 0)?;
        }
        Ok(())
    }

    /// The queue is gone, and with it the buffer.
    pub fn stop(&mut self) {
        self.held = None;
        self.asked = false;
    }
}

fn describe(statistics: &[u8]) -> String {
    let (entries, _) = statistics.as_chunks::<ENTRY>();
    let known = entries.iter().filter_map(|&[t0, t1, ref value @ ..]| {
        let name = NAMES.get(usize::from(u16::from_le_bytes([t0, t1])))?;
        Some(format!("{name} {}", u64::from_le_bytes(*value)))
    });
    known.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_named() {
        let mut bytes = vec![4, 0, 1, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend([9, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
        bytes.extend([10, 0, 1, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend([5, 0, 1]);
        assert_eq!(describe(&bytes), "free 257, huge pages refused 18446744073709551615");
        assert_eq!(describe(&[]), "");
    }
}
