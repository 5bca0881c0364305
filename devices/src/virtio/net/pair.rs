//! A queue pair: a receiving and a transmitting queue, in a thread of their own.

use std::ops::Range;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MQ;

use super::control;
use super::features::{consistent, has};
use super::link::Link;
use super::receive::Receiver;
use super::state::LinkState;
use super::transmit::Transmitter;
use crate::virtio::Worker;
use crate::virtio::queue::{Fault, Queues};

/// Event: the link has frames, or is gone.
const LINK: u32 = 0;
/// Event: the rate leaves room for frames from the host again, ...
const RECEIVE: u32 = 1;
/// ... or for frames to it.
const TRANSMIT: u32 = 2;

/// Serves one queue pair.
pub struct PairWorker {
    pub number: usize,
    pub name: String,
    pub link: Arc<dyn Link>,
    pub state: LinkState,
    pub receiver: Receiver,
    pub transmitter: Transmitter,
    /// What this pair's queues are for with the negotiated features.
    pub role: Role,
}

/// What a pair's queues are for. Without several pairs, the queue behind the first pair is the control queue (section 5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Frames.
    Frames,
    /// The first queue is the control queue.
    Control,
    /// None.
    Nothing,
}

impl Worker for PairWorker {
    fn thread(&self) -> Option<String> {
        Some(format!("net{}-{}", self.number, self.name))
    }

    fn queues(&self) -> Range<usize> {
        2 * self.number..2 * self.number + 2
    }

    fn register(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        let edges = EventSet::IN | EventSet::EDGE_TRIGGERED;
        ops.add(Events::with_data(self.link.file(), LINK, edges))?;
        self.receiver.limiter.register(RECEIVE, ops)?;
        self.transmitter.limiter.register(TRANSMIT, ops)
    }

    fn start(&mut self, features: u64) {
        let features = consistent(features);
        self.role = match self.number {
            0 => Role::Frames,
            _ if has(features, VIRTIO_NET_F_MQ) => Role::Frames,
            1 => Role::Control,
            _ => Role::Nothing,
        };
        self.receiver.start(features);
        self.transmitter.start(features);
        // The queues of an interface have their offloads in common.
        if self.number == 0
            && let Err(error) = self.link.set_offloads(features)
        {
            // Not to be expected, for it could be done when the tap was opened; and a guest can have it tried as often as it likes.
            log::debug!("Cannot set the offloads of the tap `{}`: {error}", self.name);
        }
    }

    fn kick(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Fault> {
        match (self.role, queue - 2 * self.number) {
            (Role::Frames, 0) => self.receive(queues),
            (Role::Frames, _) => self.transmit(queues),
            (Role::Control, 0) => queues.get(queue).map_or(Ok(()), |queue| control::answer(queue, |_| false)),
            _ => Ok(()),
        }
    }

    fn event(&mut self, events: Events, queues: &mut Queues, ops: &mut EventOps) -> Result<(), Fault> {
        match events.data() {
            LINK if events.event_set().intersects(EventSet::ERROR | EventSet::HANG_UP) => {
                if self.state.set_down() {
                    log::warn!("The tap `{}` is gone: its guest has no network any more", self.name);
                }
                let _ = ops.remove(Events::empty(self.link.file()));
                Ok(())
            }
            LINK => {
                self.receiver.waiting = true;
                self.receive(queues)
            }
            RECEIVE => {
                self.receiver.limiter.rung();
                self.receive(queues)
            }
            _ => {
                self.transmitter.limiter.rung();
                self.transmit(queues)
            }
        }
    }

    fn stop(&mut self, queue: usize) {
        let (direction, counts) = if queue.is_multiple_of(2) {
            self.receiver.stop();
            ("to", &mut self.receiver.counts)
        } else {
            ("from", &mut self.transmitter.counts)
        };
        let counts = std::mem::take(counts);
        log::debug!("{}: {} frames {direction} the guest, {} dropped", self.name, counts.passed, counts.dropped);
    }
}

impl PairWorker {
    fn receive(&mut self, queues: &mut Queues) -> Result<(), Fault> {
        match queues.get(2 * self.number) {
            Some(queue) if self.role == Role::Frames => self.receiver.run(self.link.file(), queue),
            _ => Ok(()),
        }
    }

    fn transmit(&mut self, queues: &mut Queues) -> Result<(), Fault> {
        match queues.get(2 * self.number + 1) {
            Some(queue) if self.role == Role::Frames => self.transmitter.run(self.link.file(), queue),
            _ => Ok(()),
        }
    }
}
