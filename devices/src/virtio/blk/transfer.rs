//! Reading and writing files straight from and to guest memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use nix::libc;
use vm_memory::VolatileSlice;

/// The most pieces of memory that Linux takes at once (include/uapi/linux/uio.h).
pub const UIO_MAXIOV: libc::c_int = 1024;

/// Fills the slices with a file's bytes from `offset` on. It is an error if the file ends before.
pub fn read(file: &File, into: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
    let fd = file.as_raw_fd();
    transfer(into, offset, io::ErrorKind::UnexpectedEof, |iovecs, count, offset| {
        // SAFETY: each of the `count` buffers is a slice of `into`, which is valid for writes as long as it is borrowed. Nothing
        // else of this process relies on what these bytes are, for they are the guest's.
        unsafe { libc::preadv(fd, iovecs, count, offset) }
    })
}

/// Overwrites a file from `offset` on.
pub fn write(file: &File, from: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
    let fd = file.as_raw_fd();
    transfer(from, offset, io::ErrorKind::WriteZero, |iovecs, count, offset| {
        // SAFETY: each of the `count` buffers is a slice of `from`, which is valid for reads as long as it is borrowed.
        unsafe { libc::pwritev(fd, iovecs, count, offset) }
    })
}

/// The slices as the kernel takes them.
pub fn iovecs(slices: &[VolatileSlice<'_>]) -> Vec<libc::iovec> {
    // A pointer stays valid without its guard: that matters only where memory is mapped anew for each access.
    let iovec = |slice: &VolatileSlice<'_>| libc::iovec {
        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
        iov_len: slice.len(),
    };
    slices.iter().filter(|slice| !slice.is_empty()).map(iovec).collect()
}

/// Repeats the call until everything is done.
fn transfer(
    slices: &[VolatileSlice<'_>],
    mut offset: u64,
    stuck: io::ErrorKind,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
) -> io::Result<()> {
    let mut iovecs = iovecs(slices);
    let mut left = &mut iovecs[..];
    while !left.is_empty() {
        let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = libc::c_int::try_from(left.len()).unwrap_or(UIO_MAXIOV).min(UIO_MAXIOV);
        let done = match usize::try_from(call(left.as_ptr(), count, at)) {
            Ok(0) => return Err(stuck.into()),
            Ok(done) => done,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            },
        };
        left = advance(left, done);
        offset += done as u64;
    }
    Ok(())
}

/// What is left after so many bytes.
fn advance(mut iovecs: &mut [libc::iovec], mut done: usize) -> &mut [libc::iovec] {
    while let Some(first) = iovecs.first_mut() {
        if done < first.iov_len {
            first.iov_base = first.iov_base.wrapping_byte_add(done);
            first.iov_len -= done;
            break;
        }
        done -= first.iov_len;
        iovecs = &mut iovecs[1..];
    }
    iovecs
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};

    use super::*;

    fn slices(memory: &mut [u8], size: usize) -> Vec<VolatileSlice<'_>> {
        memory.chunks_mut(size).map(VolatileSlice::from).collect()
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_transferred() {
        let mut file = tempfile::tempfile().unwrap();
        let mut memory: Vec<u8> = (0..3 * 2500_u32).map(|byte| byte as u8).collect();
        let written = memory.clone();
        write(&file, &slices(&mut memory, 3), 100).unwrap();
        let mut contents = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut contents).unwrap();
        assert_eq!(contents[100..], written);

        memory.fill(0);
        read(&file, &slices(&mut memory, 3), 100).unwrap();
        assert_eq!(memory, written);
    }

    #[test]
    fn the_end_of_a_file_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let mut memory = [0; 64];
        let error = read(&file, &slices(&mut memory, 10), 50).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(memory[..50], [7; 50]);
        assert!(read(&file, &slices(&mut memory, 10), u64::MAX).is_err());
    }
}
