//! Entropy device (section 5.4): the host's random numbers for the guest.

use std::num::NonZeroU64;
use std::ops::Range;

use event_manager::{EventOps, Events};
use serde::{Deserialize, Serialize};

use super::interrupt::Interrupt;
use super::queue::{Fault, Queues};
use super::rate::RateLimiter;
use super::{DeviceConfig, OpenContext, Opened, VirtioDevice, Worker};
use crate::registry::{Key, Kind, Value};

/// Device type (section 5).
const DEVICE_TYPE: u32 = 4;
/// Linux has one request at a time (drivers/char/hw_random/virtio-rng.c); others may have a few.
const QUEUE_SIZE: u16 = 16;
/// At most so many bytes are given in one pass, whatever the driver asks for, so that others have their turn.
const PASS_MAX: u64 = 64 << 10;
/// What is asked of the host at once, in bytes.
const PIECE: usize = 4096;

/// Name, keys and help.
static KIND: Kind = Kind {
    name: "rng",
    about: "Random numbers from the host (virtio-rng)",
    keys: &[Key {
        name: "rate",
        about: "bytes per second that the guest gets",
        value: Value::Size,
        default: "no limit",
    }],
    bare: None,
    example: "--device rng,rate=64K",
    standard: true,
    single: false,
};

/// An entropy device.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RngConfig {
    /// Bytes per second that the guest gets.
    pub rate: Option<NonZeroU64>,
}

impl DeviceConfig for RngConfig {
    const KIND: &'static Kind = &KIND;

    fn open(&self, _context: &OpenContext<'_>) -> Opened {
        let limiter = RateLimiter::new(self.rate.map(NonZeroU64::get))?;
        Ok(Box::new(Entropy { worker: Some(EntropyWorker { limiter }) }))
    }
}

struct Entropy {
    worker: Option<EntropyWorker>,
}

impl VirtioDevice for Entropy {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn workers(&mut self, _interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
        self.worker.take().into_iter().map(|worker| Box::new(worker) as Box<dyn Worker>).collect()
    }
}

struct EntropyWorker {
    limiter: RateLimiter,
}

impl Worker for EntropyWorker {
    fn queues(&self) -> Range<usize> {
        0..1
    }

    fn register(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        self.limiter.register(0, ops)
    }

    fn kick(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Fault> {
        let Some(queue) = queues.get(queue) else { return Ok(()) };
        let mut left = PASS_MAX;
        while left > 0 {
            if !self.limiter.ready() {
                return Ok(());
            }
            let Some(chain) = queue.pop()? else { return Ok(()) };
            let wanted = chain.writable().len().min(left);
            let mut given = 0;
            let mut piece = [0; PIECE];
            while given < wanted {
                let piece = &mut piece[..(wanted - given).min(PIECE as u64) as usize];
                if let Err(error) = getrandom::fill(piece) {
                    log::debug!("The host has no random numbers: {error}");
                    break;
                }
                given += chain.writable().write(given, piece)? as u64;
            }
            queue.complete(chain, given as u32)?;
            self.limiter.spend(given);
            left -= given;
        }
        queue.come_back();
        Ok(())
    }

    fn event(&mut self, _events: Events, queues: &mut Queues, _ops: &mut EventOps) -> Result<(), Fault> {
        self.limiter.rung();
        self.kick(0, queues)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::virtio::config::make_from;
    use crate::virtio::testing::{BUFFERS, Guest, NEXT, WRITE};

    fn guest(device: &str) -> Guest {
        let mut guest = Guest::new(make_from(device).unwrap());
        guest.start();
        guest
    }

    #[test]
    fn every_request_gets_other_bytes() {
        let mut guest = guest("rng");
        let mut seen = vec![vec![0; 32]];
        for _ in 0..20 {
            assert_eq!(guest.request(0, &[(BUFFERS, 16, WRITE), (BUFFERS + 16, 16, WRITE)]), 32);
            let bytes = guest.bytes(BUFFERS, 32);
            assert!(!seen.contains(&bytes));
            seen.push(bytes);
        }
        assert_eq!(guest.bytes(BUFFERS + 32, 32), [0; 32], "nothing is written behind the buffer");
    }

    #[test]
    fn a_request_without_room_is_answered() {
        assert_eq!(guest("rng").request(0, &[(BUFFERS, 16, 0)]), 0);
    }

    #[test]
    fn a_chain_larger_than_memory_gets_a_pass_worth() {
        let mut guest = guest("rng");
        // The same memory again and again.
        let aliased = [(BUFFERS, 0x8_0000, WRITE); 16];
        assert_eq!(u64::from(guest.request(0, &aliased)), PASS_MAX);
    }

    #[test]
    fn many_large_requests_are_answered_over_several_passes() {
        let mut guest = guest("rng");
        for head in 0..16 {
            guest.descriptor(0, head, (BUFFERS, 0x8000, WRITE, 0));
            guest.publish(0, head);
        }
        guest.kick(0);
        for head in 0..16 {
            assert_eq!(guest.wait_used(0), (head, 0x8000));
        }
    }

    #[test]
    fn a_queue_that_is_reset_starts_anew_and_its_rate_does_not() {
        let mut guest = guest("rng,rate=40K");
        let started = Instant::now();
        for _ in 0..1000 {
            guest.renew_queue(0);
            assert_eq!(guest.request(0, &[(BUFFERS, 20, WRITE)]), 20);
        }
        // 20 KB less the burst of 4 KiB.
        assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    }

    #[test]
    fn a_rate_holds_it_back() {
        let mut guest = guest("rng,rate=40K");
        let started = Instant::now();
        for _ in 0..5 {
            guest.descriptor(0, 0, (BUFFERS, 2048, WRITE | NEXT, 1));
            assert_eq!(guest.request(0, &[(BUFFERS, 4096, WRITE)]), 4096);
        }
        // 20 KiB less the burst of 4 KiB and what is on credit at the end.
        assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
    }
}
