//! Where a queue pair's frames come from and go to: the transfers, without a copy between guest memory and the kernel.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use vm_memory::VolatileSlice;

use super::header;

/// The most buffers of one transfer beside the header and the guard: the kernel takes 1024 (UIO_MAXIOV, include/uapi/linux/uio.h).
pub const SLICES_MAX: usize = 1022;

/// One queue of a network interface. Each read takes a whole frame, each write gives one, with a header before it.
pub trait Link: Send + Sync {
    /// The queue; reads and writes do not block.
    fn file(&self) -> &File;

    /// Has frames come with what these features allow them to leave to the guest.
    fn set_offloads(&self, features: u64) -> io::Result<()>;

    /// Whether frames come by this queue.
    fn attach(&self, on: bool) -> io::Result<()>;
}

/// Reads the header and as much of a frame as the slices hold. Returns how many bytes there were with the header's; one more
/// than there is room for if the frame is longer.
pub fn read(file: &File, header: &mut [u8; header::SIZE], slices: &[VolatileSlice]) -> io::Result<usize> {
    let mut guard = [0_u8];
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let mut vector = Vec::with_capacity(slices.len() + 2);
    vector.push(libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: header.len() });
    vector.extend(guards.iter().map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() }));
    vector.push(libc::iovec { iov_base: guard.as_mut_ptr().cast(), iov_len: guard.len() });
    let count = libc::c_int::try_from(vector.len()).map_err(io::Error::other)?;
    // SAFETY: each element is memory that the kernel may write: this function's own, borrowed for writing, or a slice of guest
    // memory, mapped while its guard lives, which nothing in this program takes for unchanging.
    result(unsafe { libc::readv(file.as_raw_fd(), vector.as_ptr(), count) })
}

/// Writes a frame with this header.
pub fn write(file: &File, header: &[u8; header::SIZE], slices: &[VolatileSlice]) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard).collect();
    let mut vector = Vec::with_capacity(slices.len() + 1);
    vector.push(libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() });
    let frame =
        guards.iter().map(|guard| libc::iovec { iov_base: guard.as_ptr().cast_mut().cast(), iov_len: guard.len() });
    vector.extend(frame);
    let count = libc::c_int::try_from(vector.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads only, from the borrowed header and from slices of guest memory, mapped while their guards live.
    result(unsafe { libc::writev(file.as_raw_fd(), vector.as_ptr(), count) })
}

fn result(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
