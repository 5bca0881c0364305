//! A split virtqueue (section 2.7) that trusts nothing in it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use thiserror::Error;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::{Address as _, Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryError, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Buffer, Chain};
use super::interrupt::Interrupt;

/// So often one call looks for a chain, in case the driver adds one just when notifications are turned on.
const LOOKS: u32 = 2;
/// Emptied buffer lists that are kept for later chains.
const SPARE_LISTS: usize = 64;

/// Layout of the rings in bytes (sections 2.7.6 and 2.7.8): the fields before their elements, and the elements.
const AVAILABLE_HEADER: u64 = 4;
const AVAILABLE_ELEMENT: u64 = 2;
const USED_HEADER: u64 = 4;
const USED_ELEMENT: u64 = 8;
/// Offset of the used ring's index.
const USED_INDEX: u64 = 2;

/// What a driver, or a request of its, did wrong.
#[derive(Debug, Error)]
pub enum Fault {
    /// Rings that cannot be used.
    #[error("The rings of a queue cannot be used: {0}")]
    Rings(virtio_queue::Error),
    /// A part of a ring is no memory of the guest's, or is part of another ring.
    #[error("The {ring} at {start:#x}-{end:#x} is not in guest memory, or overlaps another ring")]
    Place {
        /// Which ring.
        ring: &'static str,
        /// First guest physical address.
        start: u64,
        /// End, exclusive.
        end: u64,
    },
    /// More chains are available than the queue has entries, or the index went backwards.
    #[error("The available ring's index jumped")]
    AvailableIndex,
    /// The chain begins outside the descriptor table.
    #[error("Descriptor {0} is outside the table")]
    Head(u16),
    /// The chain was made available although the device has it already.
    #[error("Descriptor {0} is made available twice")]
    InFlight(u16),
    /// The chain does not end: a loop, an index outside its table, or a table that cannot be used.
    #[error("The chain of descriptor {0} is broken")]
    Broken(u16),
    /// The chain has more buffers than the queue has entries.
    #[error("The chain of descriptor {0} is longer than the queue")]
    TooLong(u16),
    /// A buffer for the device to read comes after one for it to write.
    #[error("The chain of descriptor {0} has readable buffers after writable ones")]
    Order(u16),
    /// A buffer is empty or not wholly in guest memory.
    #[error("A buffer of {length} bytes at {address:#x} is empty or not in guest memory")]
    Buffer {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        length: u32,
    },
    /// Guest memory cannot be accessed where it was found to be.
    #[error("Cannot access guest memory")]
    Access(GuestMemoryError),
    /// A request that the device cannot answer by its own means; what is wrong with it.
    #[error("{0}")]
    Request(&'static str),
}

/// What a driver says of a queue before it enables it (section 4.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rings {
    /// Entries.
    pub size: u16,
    /// Guest physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest physical address of the available ring.
    pub available: u64,
    /// Guest physical address of the used ring.
    pub used: u64,
}

/// An active queue.
#[derive(Debug)]
pub struct VirtQueue {
    number: usize,
    queue: Queue,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Interrupt,
    kick: Arc<EventFd>,
    /// Which heads the device has.
    in_flight: Vec<bool>,
    /// How many more chains this pass may take.
    budget: u16,
    /// The pass ended before the queue was found empty.
    again: bool,
    /// The driver is asked not to kick.
    quiet: bool,
    /// The used ring's index when the driver was last told, or might have been.
    told: u16,
    spare: Vec<Vec<Buffer>>,
}

impl VirtQueue {
    /// Queue `number` of its device, with these rings, of which `max` is the most entries.
    pub fn new(
        number: usize,
        max: u16,
        rings: Rings,
        event_index: bool,
        memory: &Arc<GuestMemoryMmap>,
        interrupt: &Interrupt,
        kick: &Arc<EventFd>,
    ) -> Result<Self, Fault> {
        let mut queue = Queue::new(max).map_err(Fault::Rings)?;
        queue.try_set_size(rings.size).map_err(Fault::Rings)?;
        queue.try_set_desc_table_address(GuestAddress(rings.descriptors)).map_err(Fault::Rings)?;
        queue.try_set_avail_ring_address(GuestAddress(rings.available)).map_err(Fault::Rings)?;
        queue.try_set_used_ring_address(GuestAddress(rings.used)).map_err(Fault::Rings)?;
        queue.set_event_idx(event_index);
        queue.set_ready(true);
        rings.check(memory)?;
        Ok(Self {
            number,
            queue,
            memory: Arc::clone(memory),
            interrupt: interrupt.clone(),
            kick: Arc::clone(kick),
            in_flight: vec![false; rings.size.into()],
            budget: rings.size,
            again: false,
            quiet: false,
            told: 0,
            spare: Vec::new(),
        })
    }

    /// Number of entries.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The next chain that the driver made available; none if there is none, or if this pass had its share. Kicks are only to be
    /// expected after it returned none.
    pub fn pop(&mut self) -> Result<Option<Chain>, Fault> {
        if self.budget == 0 {
            self.again = true;
            return Ok(None);
        }
        let memory = Arc::clone(&self.memory);
        for _ in 0..LOOKS {
            let mut available = self.queue.iter(&*memory).map_err(|error| match error {
                virtio_queue::Error::InvalidAvailRingIndex => Fault::AvailableIndex,
                error => Fault::Rings(error),
            })?;
            if let Some(chain) = available.next() {
                self.budget -= 1;
                if !self.quiet {
                    self.queue.disable_notification(&*memory).map_err(Fault::Rings)?;
                    self.quiet = true;
                }
                return self.admit(chain).map(Some);
            }
            self.quiet = false;
            if !self.queue.enable_notification(&*memory).map_err(Fault::Rings)? {
                return Ok(None);
            }
        }
        self.again = true;
        Ok(None)
    }

    /// Whether [`VirtQueue::pop`] gives no more chains in this pass, though there may be some.
    pub fn pass_is_over(&self) -> bool {
        self.budget == 0
    }

    /// Gives a chain back, of whose writable bytes the first `written` were written. The driver is told when the pass ends.
    pub fn complete(&mut self, chain: Chain, written: u32) -> Result<(), Fault> {
        self.complete_all([(chain, written)])
    }

    /// Gives chains back, in this order, so that the driver sees all or none of them.
    pub fn complete_all(&mut self, chains: impl IntoIterator<Item = (Chain, u32)>) -> Result<(), Fault> {
        let ring = GuestAddress(self.queue.used_ring());
        let mut next = self.queue.next_used();
        for (chain, written) in chains {
            let element = USED_HEADER + USED_ELEMENT * u64::from(next % self.size());
            let fields = [u32::from(chain.head).to_le(), written.to_le()];
            self.memory.write_obj(fields, ring.unchecked_add(element)).map_err(Fault::Access)?;
            next = next.wrapping_add(1);
            self.reclaim(chain);
        }
        self.queue.set_next_used(next);
        let index = ring.unchecked_add(USED_INDEX);
        self.memory.store(next.to_le(), index, Ordering::Release).map_err(Fault::Access)
    }

    fn reclaim(&mut self, chain: Chain) {
        if let Some(in_flight) = self.in_flight.get_mut(usize::from(chain.head)) {
            *in_flight = false;
        }
        if self.spare.len() < SPARE_LISTS {
            let mut buffers = chain.buffers;
            buffers.clear();
            self.spare.push(buffers);
        }
    }

    /// Has the worker kicked again once others had their turn.
    pub fn come_back(&mut self) {
        self.again = true;
    }

    /// Lets the next pass begin.
    pub(super) fn end_pass(&mut self) -> Result<(), Fault> {
        self.budget = self.size();
        let told = std::mem::replace(&mut self.told, self.queue.next_used());
        if told != self.told && self.wants_interrupt(told)? {
            self.interrupt.used(self.number);
        }
        if std::mem::take(&mut self.again) {
            self.kick();
        }
        Ok(())
    }

    pub(super) fn kick(&self) {
        // It fails only when its counter is full, and then a kick is on its way.
        let _ = self.kick.write(1);
    }

    /// Whether the driver asked to be told of chains given back since the used ring's index was `told` (section 2.7.7).
    fn wants_interrupt(&self, told: u16) -> Result<bool, Fault> {
        // What was given back is visible before the driver's wish is read: it looks once more after it has written that.
        fence(Ordering::SeqCst);
        let ring = GuestAddress(self.queue.avail_ring());
        let load = |at| self.memory.load(ring.unchecked_add(at), Ordering::Relaxed).map(u16::from_le);
        if !self.queue.event_idx_enabled() {
            let flags = load(0).map_err(Fault::Access)?;
            return Ok(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        let event = load(AVAILABLE_HEADER + AVAILABLE_ELEMENT * u64::from(self.size())).map_err(Fault::Access)?;
        let next = self.queue.next_used();
        Ok(next.wrapping_sub(event).wrapping_sub(1) < next.wrapping_sub(told))
    }

    fn admit(&mut self, chain: DescriptorChain<&GuestMemoryMmap>) -> Result<Chain, Fault> {
        let head = chain.head_index();
        let in_flight = self.in_flight.get_mut(usize::from(head)).ok_or(Fault::Head(head))?;
        if *in_flight {
            return Err(Fault::InFlight(head));
        }
        let mut buffers = self.spare.pop().unwrap_or_default();
        let mut readable = 0;
        // The iterator ends at whatever it cannot follow: then the last descriptor said that another one follows.
        let mut open = true;
        for descriptor in chain {
            if buffers.len() == self.in_flight.len() {
                return Err(Fault::TooLong(head));
            }
            let buffer = Buffer { address: descriptor.addr(), length: descriptor.len() };
            if buffer.length == 0 || !self.memory.check_range(buffer.address, buffer.length as usize) {
                return Err(Fault::Buffer { address: buffer.address.0, length: buffer.length });
            }
            if !descriptor.is_write_only() {
                if buffers.len() > readable {
                    return Err(Fault::Order(head));
                }
                readable += 1;
            }
            buffers.push(buffer);
            open = descriptor.has_next();
        }
        if open {
            return Err(Fault::Broken(head));
        }
        self.in_flight[usize::from(head)] = true;
        Ok(Chain { head, memory: Arc::clone(&self.memory), buffers, readable })
    }
}

impl Rings {
    /// Each ring lies in guest memory, and apart from the others. Sizes are those of section 2.7, with the event index.
    fn check(&self, memory: &GuestMemoryMmap) -> Result<(), Fault> {
        let size = u64::from(self.size);
        let rings = [
            ("descriptor table", self.descriptors, 16 * size),
            ("available ring", self.available, 6 + 2 * size),
            ("used ring", self.used, 6 + 8 * size),
        ];
        let mut before: Vec<Range<u64>> = Vec::new();
        for (ring, start, length) in rings {
            let end = start.saturating_add(length);
            let apart = before.iter().all(|other| end <= other.start || other.end <= start);
            // Where the crate expects nothing, it takes address 0 for a ring that is not set.
            if start == 0 || !apart || !memory.check_range(GuestAddress(start), length as usize) {
                return Err(Fault::Place { ring, start, end });
            }
            before.push(start..end);
        }
        Ok(())
    }
}

/// The queues of a worker by their numbers in the device, as far as they are active.
#[derive(Debug)]
pub struct Queues {
    first: usize,
    slots: Vec<Option<VirtQueue>>,
}

impl Queues {
    /// None of these is active.
    pub(super) fn new(range: Range<usize>) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(range.len(), || None);
        Self { first: range.start, slots }
    }

    /// The queue, if it is active.
    pub fn get(&mut self, queue: usize) -> Option<&mut VirtQueue> {
        self.slots.get_mut(queue.checked_sub(self.first)?)?.as_mut()
    }

    pub(super) fn set(&mut self, queue: usize, active: Option<VirtQueue>) {
        let slot = queue.checked_sub(self.first).and_then(|slot| self.slots.get_mut(slot));
        if let Some(slot) = slot {
            *slot = active;
        }
    }

    /// Has the worker kicked for each active queue.
    pub(super) fn kick(&self) {
        self.slots.iter().flatten().for_each(VirtQueue::kick);
    }

    /// Numbers of the active queues.
    pub(super) fn active(&self) -> Vec<usize> {
        let slots = (self.first..).zip(&self.slots);
        slots.filter(|(_, queue)| queue.is_some()).map(|(number, _)| number).collect()
    }

    pub(super) fn end_pass(&mut self) -> Result<(), Fault> {
        self.slots.iter_mut().flatten().try_for_each(VirtQueue::end_pass)
    }
}
