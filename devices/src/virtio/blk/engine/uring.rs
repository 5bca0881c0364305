//! io_uring: the host's kernel takes many requests in one system call, and does them in any order.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events};
use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode};
use nix::libc;

use super::{Disk, Done, Engine, Request};
use crate::virtio::blk::raw::RawImage;
use crate::virtio::blk::request::{Operation, Refusal};
use crate::virtio::blk::transfer::{UIO_MAXIOV, iovecs};

/// Between two attempts to wait, where the kernel refuses even that.
const PAUSE: Duration = Duration::from_millis(1);

/// A ring of the host for requests of one queue.
pub struct Uring {
    ring: IoUring,
    disk: Arc<Disk>,
    /// The file that holds the disk's very bytes.
    image: Arc<RawImage>,
    /// By the number that the kernel gives back.
    slots: Vec<Option<InFlight>>,
    free: Vec<usize>,
    /// Done without the ring.
    done: VecDeque<Done>,
}

/// What the kernel uses until it says that a request is done.
struct InFlight {
    request: Request,
    /// Pieces of guest memory, which the chain keeps mapped. The kernel has their address.
    _iovecs: Vec<libc::iovec>,
    /// How many bytes are to be transferred.
    length: u64,
}

// SAFETY: the pointers of iovecs are addresses of guest memory, which no thread owns.
unsafe impl Send for InFlight {}

impl Uring {
    /// A ring for up to `most` requests at a time.
    pub fn new(disk: Arc<Disk>, image: Arc<RawImage>, most: u16) -> io::Result<Self> {
        let ring = IoUring::new(most.into())?;
        let most = usize::from(most);
        let mut slots = Vec::new();
        slots.resize_with(most, || None);
        Ok(Self { ring, disk, image, slots, free: (0..most).collect(), done: VecDeque::with_capacity(most) })
    }

    /// What the kernel is told, and what must stay until it is done; none if the request is nothing for the ring.
    fn prepare(&self, request: &Request) -> Option<(Entry, Vec<libc::iovec>, u64)> {
        let image = &self.image;
        match request.operation {
            Operation::Flush => {
                let entry = opcode::Fsync::new(Fd(image.file(&[], 0).as_raw_fd())).flags(FsyncFlags::DATASYNC).build();
                Some((entry, Vec::new(), 0))
            }
            Operation::Read { offset, length } => {
                let slices = request.operation.slices(&request.chain).ok()?;
                let (file, pieces) = (Fd(image.file(&slices, offset).as_raw_fd()), iovecs(&slices));
                let count = fitting(&pieces)?;
                Some((opcode::Readv::new(file, pieces.as_ptr(), count).offset(offset).build(), pieces, length))
            }
            Operation::Write { offset, length, durable } => {
                let slices = request.operation.slices(&request.chain).ok()?;
                let (file, pieces) = (Fd(image.file(&slices, offset).as_raw_fd()), iovecs(&slices));
                let count = fitting(&pieces)?;
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                let entry = opcode::Writev::new(file, pieces.as_ptr(), count).offset(offset).rw_flags(flags).build();
                Some((entry, pieces, length))
            }
            Operation::Id | Operation::Discard(_) | Operation::Zero(_) => None,
        }
    }

    /// Brings an entry onto the ring; returns whether there was room.
    fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: what the entry points to is kept in `slots` until the kernel says that it is done: `complete` alone empties
        // a slot, and `drop` waits. Vectors do not move what they hold on the heap when they are moved themselves.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Judges what the kernel says of a request: bytes, or an error negated.
    fn complete(&mut self, slot: usize, result: i32) -> Option<Done> {
        let InFlight { request, length, .. } = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        if u64::try_from(result).is_ok_and(|done| done == length) {
            return Some(request.done(Ok(())));
        }
        if let Ok(error @ 1..) = i32::try_from(-i64::from(result))
            && error != libc::EINTR
            && error != libc::EAGAIN
        {
            request.operation.report(&self.disk, &io::Error::from_raw_os_error(error));
            return Some(request.done(Err(Refusal::Error)));
        }
        // Done in part: once more as a whole, which ends in all of it or in the reason why not.
        Some(request.perform(&self.disk))
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

/// How many pieces these are, if the kernel takes them at once. It is asked for nothing by none.
fn fitting(pieces: &[libc::iovec]) -> Option<u32> {
    (1..=UIO_MAXIOV as usize).contains(&pieces.len()).then_some(pieces.len() as u32)
}

impl Engine for Uring {
    fn register(&self, data: u32, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        ops.add(Events::with_data(&self.ring, data, EventSet::IN))
    }

    fn start(&mut self, request: Request) {
        // There is a slot for each entry of the queue.
        if let Some((entry, iovecs, length)) = self.prepare(&request)
            && let Some(slot) = self.free.pop()
        {
            self.slots[slot] = Some(InFlight { request, _iovecs: iovecs, length });
            if !self.push(&entry.user_data(slot as u64)) {
                // The ring has as many entries as there are slots, so this is not to be expected.
                let done = self.complete(slot, -libc::EAGAIN);
                self.done.extend(done);
            }
        } else {
            self.done.push_back(request.perform(&self.disk));
        }
    }

    fn submit(&mut self) {
        // What the kernel does not take at once must still go: nothing else would wake the worker for it.
        while !self.ring.submission().is_empty() {
            if let Err(error) = self.ring.submit() {
                log::debug!("io_uring does not take requests now: {error}");
                thread::sleep(PAUSE);
            }
        }
    }

    fn done(&mut self) -> Option<Done> {
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        let (slot, result) = {
            let entry = self.ring.completion().next()?;
            (entry.user_data() as usize, entry.result())
        };
        self.complete(slot, result)
    }

    fn stop(&mut self) {
        loop {
            while self.done().is_some() {}
            if self.in_flight() == 0 {
                return;
            }
            if self.ring.submit_and_wait(1).is_err() {
                thread::sleep(PAUSE);
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.stop();
    }
}
