//! Frames from the host into the driver's buffers.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF};

use super::features::has;
use super::frames::{FRAMES_PER_PASS, FrameCounts};
use super::header::{self, ETHERNET, FRAME_MAX, VLAN};
use super::link::{self, Got, Target};
use crate::virtio::queue::{Fault, VirtQueue};
use crate::virtio::rate::RateLimiter;

/// The receiving half of a queue pair.
///
/// The kernel tells of new frames once (the link is watched for edges), so this remembers whether there may be some. It goes on
/// when there are frames, buffers and leave by the rate; whichever of them comes last calls it.
pub struct Receiver {
    pub limiter: RateLimiter,
    pub counts: FrameCounts,
    /// Frames may be waiting.
    pub waiting: bool,
    features: u64,
    /// The longest packet that comes in one piece, in bytes.
    mtu: u16,
    /// Buffers taken from the queue for frames to come, in their order, ...
    held: VecDeque<Target>,
    /// ... and what room they are, with the header.
    room: u64,
}

impl Receiver {
    pub fn new(limiter: RateLimiter, mtu: u16) -> Self {
        let (held, counts) = (VecDeque::new(), FrameCounts::default());
        // What came before the link was watched is told of when watching begins.
        Self { limiter, counts, waiting: false, features: 0, mtu, held, room: 0 }
    }

    pub fn start(&mut self, features: u64) {
        self.features = features;
    }

    pub fn stop(&mut self) {
        self.held.clear();
        self.room = 0;
    }

    /// Moves frames as long as there are any, and a bounded number.
    pub fn run(&mut self, file: &File, queue: &mut VirtQueue) -> Result<(), Fault> {
        for _ in 0..FRAMES_PER_PASS {
            if !self.waiting || !self.limiter.ready() || !self.hold(queue)? {
                return Ok(());
            }
            self.receive(file, queue)?;
        }
        queue.come_back();
        Ok(())
    }

    /// Holds buffers for the largest frame that may come, or fewer if the driver gave fewer; returns whether there are any to use now.
    fn hold(&mut self, queue: &mut VirtQueue) -> Result<bool, Fault> {
        while self.held.is_empty() || self.room < self.wanted() {
            let Some(chain) = queue.pop()? else {
                // With the next pass, there may be more.
                return Ok(!self.held.is_empty() && !queue.pass_is_over());
            };
            let target = Target::new(chain)?;
            if target.room() < header::SIZE as u64 {
                return Err(Fault::Request("A buffer for frames has no room for the header"));
            }
            self.room += target.room();
            self.held.push_back(target);
        }
        Ok(true)
    }

    /// The room of buffers that are enough for any frame, with the header.
    fn wanted(&self) -> u64 {
        let segments = [VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6].iter().any(|&bit| has(self.features, bit));
        match has(self.features, VIRTIO_NET_F_MRG_RXBUF) {
            // One buffer is for one frame, whatever its size.
            false => 0,
            true if segments => header::SIZE as u64 + FRAME_MAX,
            true => header::SIZE as u64 + ETHERNET + VLAN + u64::from(self.mtu),
        }
    }

    /// Reads one frame into as many of the held buffers as it takes.
    fn receive(&mut self, file: &File, queue: &mut VirtQueue) -> Result<(), Fault> {
        let usable = if has(self.features, VIRTIO_NET_F_MRG_RXBUF) { self.held.len() } else { 1 };
        let mut header = [0; header::SIZE];
        let Got { count, cut } = match link::read(file, &mut header, self.held.iter().take(usable)) {
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => {
                self.waiting = false;
                if error.kind() != ErrorKind::WouldBlock {
                    log::debug!("Cannot read a frame: {error}");
                }
                return Ok(());
            }
        };
        self.limiter.spend(count);
        let buffers = self.buffers_of(count);
        let frame = count.saturating_sub(header::SIZE as u64);
        let header = header::to_guest(header, frame, self.features, buffers).filter(|_| frame > 0 && !cut);
        let Some(header) = header else {
            self.counts.dropped += 1;
            return Ok(());
        };
        if let Some(first) = self.held.front() {
            first.write_header(&header)?;
        }
        self.counts.passed += 1;
        self.give_back(buffers, count, queue)
    }

    /// How many of the held buffers so many bytes fill.
    fn buffers_of(&self, count: u64) -> u16 {
        let mut before = 0;
        let used = self.held.iter().take_while(|target| {
            let is_used = before < count;
            before += target.room();
            is_used
        });
        used.count() as u16
    }

    /// Hands over the frame that lies in the first buffers: at once, for the driver must not see a part of it.
    fn give_back(&mut self, buffers: u16, count: u64, queue: &mut VirtQueue) -> Result<(), Fault> {
        let (mut left, room) = (count, &mut self.room);
        let chains = self.held.drain(..usize::from(buffers).min(self.held.len())).map(|target| {
            let written = target.room().min(left);
            *room -= target.room();
            left -= written;
            (target.into_chain(), written as u32)
        });
        queue.complete_all(chains)
    }
}
