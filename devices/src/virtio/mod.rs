//! virtio devices (Virtual I/O Device (VIRTIO) specification 1.2), apart from the transport that guests reach them by.
//!
//! A device is a file with a [`DeviceConfig`] and a line in [`config`]. It has two sides. The [`VirtioDevice`] answers
//! for features and configuration space, in the threads of vCPUs, and never waits. Its [`Worker`]s own the
//! virtqueues while the driver runs; a [`runner::Runner`] drives each in an event loop: the main thread's, or
//! one of its own. Transport and runners talk by messages, so nothing of a device is shared but what it shares itself.

pub mod backing;
pub mod chain;
pub mod config;
mod device_config;
#[cfg(any(test, feature = "testing"))]
pub mod driver;
pub mod interrupt;
pub mod queue;
pub mod rate;
pub mod runner;
#[cfg(test)]
mod testing;
pub mod transport;

pub mod balloon;
pub mod blk;
pub mod console;
pub mod net;
pub mod rng;
pub mod vsock;

use std::io;
use std::ops::Range;

use event_manager::{EventOps, Events};

pub use device_config::{Checked, DeviceConfig, GuestLimits, OpenContext, Opened, ShmRegion, ShmRequest};
use interrupt::Interrupt;
use queue::{Fault, Queues};

/// What a transport asks of a device, by threads of vCPUs: nothing here may wait for anything.
pub trait VirtioDevice: Send {
    /// The device type (section 5).
    fn device_type(&self) -> u32;

    /// The feature bits that the device offers beside those of queues and transport, which are the same for all.
    fn features(&self) -> u64 {
        0
    }

    /// The most entries that each of its virtqueues can have: powers of 2 up to 32768.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Fills `data` with what configuration space holds at `offset` (in bytes; both are the guest's choice). Zeros
    /// stand where it has nothing.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&[], offset, data);
    }

    /// Takes what the driver writes to configuration space at `offset`.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver resets the device: what drivers have written to configuration space is forgotten.
    fn reset(&mut self) {}

    /// The device's workers, whose queues are disjoint; asked once. A worker whose work changes the configuration says so by
    /// `interrupt`.
    fn workers(&mut self, interrupt: &Interrupt) -> Vec<Box<dyn Worker>>;
}

/// What serves some of a device's virtqueues, in one thread. It outlives resets of the device.
///
/// A call works a bounded time: [`queue::VirtQueue::pop`] gives at most as many chains as the queue has entries, then
/// the event loop's other users have their turn. A worker in the main thread never blocks.
pub trait Worker: Send {
    /// The name of the thread that it must have for itself; none if it shares the main thread's event loop.
    fn thread(&self) -> Option<String> {
        None
    }

    /// Which of the device's queues it serves.
    fn queues(&self) -> Range<usize>;

    /// Gets what it needs of the host beside its event sources, in the thread that will run it and before any vCPU runs.
    fn prepare(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Adds event sources of its own. Their data must be below [`runner::RESERVED_DATA`].
    fn register(&mut self, _ops: &mut EventOps) -> Result<(), event_manager::Error> {
        Ok(())
    }

    /// The driver is ready, and these features are negotiated. Kicks of the queues follow.
    fn start(&mut self, _features: u64) {}

    /// The driver made buffers available in `queue`, or may have. An error puts the device into the state
    /// `DEVICE_NEEDS_RESET`.
    fn kick(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Fault>;

    /// One of its own event sources is ready. Queues may be inactive, and so may all of them be.
    fn event(&mut self, _events: Events, _queues: &mut Queues, _ops: &mut EventOps) -> Result<(), Fault> {
        Ok(())
    }

    /// The queue is taken away, by a reset or after an error. When this returns, nothing writes any more to what chains
    /// of the queue refer to, and the worker holds none.
    fn stop(&mut self, _queue: usize) {}
}

/// Reads `config` as a configuration space: zeros behind its end.
pub fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    let length = rest.len().min(data.len());
    data[..length].copy_from_slice(&rest[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_space_ends_in_zeros() {
        let read = |offset| {
            let mut data = [0x55; 4];
            read_bytes(&[1, 2, 3], offset, &mut data);
            data
        };
        assert_eq!(read(0), [1, 2, 3, 0]);
        assert_eq!(read(2), [3, 0, 0, 0]);
        assert_eq!(read(3), [0; 4]);
        assert_eq!(read(u64::MAX), [0; 4]);
    }
}
