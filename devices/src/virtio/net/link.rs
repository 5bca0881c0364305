//! Where a queue pair's frames come from and go to: the transfers, without a copy between guest memory and the kernel.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use vm_memory::VolatileSlice;

use super::header;
use crate::virtio::chain::Chain;
use crate::virtio::queue::Fault;

/// The most parts of one transfer beside the header and the guard: the kernel takes 1024 (UIO_MAXIOV, include/uapi/linux/uio.h).
const SLICES_MAX: usize = 1022;
/// Linux's receive buffers for a frame of 64 KiB (43 of 1526 bytes), the header and the guard.
const VECTOR_USUAL: usize = 45;

/// One queue of a network interface. Each read takes a whole frame, each write gives one, with a header before it.
pub trait Link: Send + Sync {
    /// The queue; reads and writes do not block.
    fn file(&self) -> &File;

    /// Has frames come with what these features allow them to leave to the guest.
    fn set_offloads(&self, features: u64) -> io::Result<()>;

    /// Whether frames come by this queue.
    fn attach(&self, on: bool) -> io::Result<()>;
}

/// A buffer of the driver's for frames to come, with the places of its parts for the kernel: found once, not for each frame.
pub struct Target {
    chain: Chain,
    parts: Vec<libc::iovec>,
    room: u64,
}

// SAFETY: the pointers are to guest memory, which the chain keeps mapped, and which every thread may access by system calls.
unsafe impl Send for Target {}

impl Target {
    /// Takes the writable side of a chain.
    pub fn new(chain: Chain) -> Result<Self, Fault> {
        let parts: Vec<_> = chain.writable().slices(0, u64::MAX)?.iter().map(part).collect();
        let room = chain.writable().len();
        Ok(Self { chain, parts, room })
    }

    /// Bytes that it can take.
    pub fn room(&self) -> u64 {
        self.room
    }

    /// Overwrites its first bytes.
    pub fn write_header(&self, header: &[u8; header::SIZE]) -> Result<(), Fault> {
        self.chain.writable().write(0, header).map(drop)
    }

    /// The chain, to give back.
    pub fn into_chain(self) -> Chain {
        self.chain
    }
}

/// What one read came to.
pub struct Got {
    /// Bytes with the header's.
    pub count: u64,
    /// The frame is longer than the room for it, and what was behind that is lost.
    pub cut: bool,
}

/// Reads a header and its frame. The frame goes to where it lies behind the header in the targets, in their order, as far as there is room.
pub fn read<'a>(
    file: &File,
    header: &mut [u8; header::SIZE],
    targets: impl Iterator<Item = &'a Target>,
) -> io::Result<Got> {
    let mut guard = [0_u8];
    let mut vector = Vec::with_capacity(VECTOR_USUAL);
    vector.push(libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() });
    let parts = behind(header::SIZE, targets.flat_map(|target| target.parts.iter().copied()));
    vector.extend(parts.take(SLICES_MAX));
    let room: usize = vector.iter().map(|part| part.iov_len).sum();
    vector.push(libc::iovec { iov_base: guard.as_mut_ptr().cast(), iov_len: guard.len() });
    let length = vector.len().try_into().map_err(io::Error::other)?;
    // SAFETY: each element is memory that the kernel may write: this function's own, borrowed for writing, or a part of guest
    // memory, which the borrowed targets' chains keep mapped, and which nothing in this program takes for unchanging.
    let count = result(unsafe { libc::readv(file.as_raw_fd(), vector.as_ptr(), length) })?;
    Ok(Got { count: count as u64, cut: count > room })
}

/// Writes a frame with this header.
pub fn write(file: &File, header: &[u8; header::SIZE], frame: &[VolatileSlice]) -> io::Result<()> {
    let mut vector = Vec::with_capacity(frame.len() + 1);
    vector.push(libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() });
    vector.extend(frame.iter().map(part));
    let length = vector.len().try_into().map_err(io::Error::other)?;
    // SAFETY: the kernel reads only, from the borrowed header and from slices of guest memory, which are mapped while borrowed.
    result(unsafe { libc::writev(file.as_raw_fd(), vector.as_ptr(), length) }).map(drop)
}

/// A slice of guest memory for the kernel.
fn part(slice: &VolatileSlice) -> libc::iovec {
    let guard = slice.ptr_guard_mut();
    libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() }
}

/// The parts without the first bytes.
fn behind(mut bytes: usize, parts: impl Iterator<Item = libc::iovec>) -> impl Iterator<Item = libc::iovec> {
    parts.filter_map(move |part| {
        let skip = bytes.min(part.iov_len);
        bytes -= skip;
        let base = part.iov_base.wrapping_byte_add(skip);
        (skip < part.iov_len).then_some(libc::iovec { iov_base: base, iov_len: part.iov_len - skip })
    })
}

fn result(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
