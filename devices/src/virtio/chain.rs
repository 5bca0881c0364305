//! A chain of buffers that the driver made available, checked.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, VolatileSlice};

use super::queue::Fault;

/// A range of guest memory, inside what the guest has and not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest physical address.
    pub address: GuestAddress,
    /// Length in bytes.
    pub length: u32,
}

/// A descriptor chain: what the device may read, then what it may write. It goes back by
/// [`VirtQueue::complete`](super::queue::VirtQueue::complete).
#[derive(Debug)]
pub struct Chain {
    pub(super) head: u16,
    pub(super) memory: Arc<GuestMemoryMmap>,
    pub(super) buffers: Vec<Buffer>,
    /// So many of the buffers are the device's to read; the others are its to write.
    pub(super) readable: usize,
}

impl Chain {
    /// The memory that it lies in.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// What the device may read.
    pub fn readable(&self) -> Buffers<'_> {
        Buffers { memory: &self.memory, buffers: &self.buffers[..self.readable] }
    }

    /// What the device may write.
    pub fn writable(&self) -> Buffers<'_> {
        Buffers { memory: &self.memory, buffers: &self.buffers[self.readable..] }
    }
}

/// One side of a chain as a sequence of bytes. The driver can change them at any time, so what is to be judged is copied
/// once and judged as a copy.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<'a> {
    memory: &'a GuestMemoryMmap,
    buffers: &'a [Buffer],
}

impl<'a> Buffers<'a> {
    /// How many bytes there are: less than 2^32.
    pub fn len(&self) -> u64 {
        self.buffers.iter().map(|buffer| u64::from(buffer.length)).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Copies bytes from `offset` on; returns how many there were, at most `data.len()`.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<usize, Fault> {
        let mut done = 0;
        for slice in self.slices(offset, data.len() as u64)? {
            done += slice.copy_to(&mut data[done..]);
        }
        Ok(done)
    }

    /// Overwrites bytes from `offset` on; returns how many there were, at most `data.len()`.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<usize, Fault> {
        let mut done = 0;
        for slice in self.slices(offset, data.len() as u64)? {
            slice.copy_from(&data[done..]);
            done += slice.len();
        }
        Ok(done)
    }

    /// The host's view of at most `length` bytes from `offset` on, for transfers without a copy.
    pub fn slices(&self, offset: u64, length: u64) -> Result<Vec<VolatileSlice<'a>>, Fault> {
        let (mut skip, mut left) = (offset, length);
        let mut slices = Vec::with_capacity(self.buffers.len());
        for buffer in self.buffers {
            let size = u64::from(buffer.length);
            if skip >= size {
                skip -= size;
                continue;
            }
            let take = (size - skip).min(left);
            if take == 0 {
                break;
            }
            // A buffer may lie across regions of guest memory, whose host addresses are apart.
            let start = GuestAddress(buffer.address.0 + skip);
            for slice in self.memory.get_slices(start, take as usize) {
                slices.push(slice.map_err(Fault::Access)?);
            }
            (skip, left) = (0, left - take);
        }
        Ok(slices)
    }
}
