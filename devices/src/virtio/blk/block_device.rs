//! What a block device of the host says of itself.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd as _;

use nix::libc::c_int;
use nix::{ioctl_read_bad, request_code_none};

ioctl_read_bad!(
    /// BLKROGET (include/uapi/linux/fs.h): not 0 if the device is read-only.
    get_read_only,
    request_code_none!(0x12, 94),
    c_int
);

/// Whether a block device takes no writes, which opening it for them does not tell.
pub fn is_read_only(device: &File) -> bool {
    let mut read_only = 0;
    // SAFETY: the call writes one int, for which the pointer is valid, and keeps no pointer.
    let result = unsafe { get_read_only(device.as_raw_fd(), &raw mut read_only) };
    // A device that cannot say so is tried.
    result.is_ok() && read_only != 0
}
