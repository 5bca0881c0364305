//! Frames from the driver's buffers to the host.

use std::fs::File;

use super::frames::{FRAMES_PER_PASS, FrameCounts};
use super::header::{self, ETHERNET, FRAME_MAX};
use super::link;
use crate::virtio::chain::Buffers;
use crate::virtio::queue::{Fault, VirtQueue};
use crate::virtio::rate::RateLimiter;

/// The transmitting half of a queue pair.
pub struct Transmitter {
    pub limiter: RateLimiter,
    pub counts: FrameCounts,
    features: u64,
}

impl Transmitter {
    pub fn new(limiter: RateLimiter) -> Self {
        Self { limiter, counts: FrameCounts::default(), features: 0 }
    }

    pub fn start(&mut self, features: u64) {
        self.features = features;
    }

    /// Moves frames as long as there are any, and a bounded number.
    pub fn run(&mut self, file: &File, queue: &mut VirtQueue) -> Result<(), Fault> {
        for _ in 0..FRAMES_PER_PASS {
            if !self.limiter.ready() {
                return Ok(());
            }
            let Some(chain) = queue.pop()? else { return Ok(()) };
            let length = chain.readable().len();
            // Also what is dropped: it is work for the host.
            self.limiter.spend(length.min(header::SIZE as u64 + FRAME_MAX));
            if self.send(file, chain.readable(), length)? {
                self.counts.passed += 1;
            } else {
                self.counts.dropped += 1;
            }
            queue.complete(chain, 0)?;
        }
        queue.come_back();
        Ok(())
    }

    /// Returns whether the frame was taken. One that was not is lost, as frames may be.
    fn send(&self, file: &File, buffers: Buffers, length: u64) -> Result<bool, Fault> {
        let frame = length.saturating_sub(header::SIZE as u64);
        if !(ETHERNET..=FRAME_MAX).contains(&frame) {
            return Ok(false);
        }
        let mut header = [0; header::SIZE];
        buffers.read(0, &mut header)?;
        let Some(header) = header::from_guest(header, frame, self.features) else { return Ok(false) };
        let slices = buffers.slices(header::SIZE as u64, frame)?;
        if let Err(error) = link::write(file, &header, &slices) {
            log::debug!("Cannot write a frame of {frame} bytes: {error}");
            return Ok(false);
        }
        Ok(true)
    }
}
