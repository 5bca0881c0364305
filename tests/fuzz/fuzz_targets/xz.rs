//! Kernels that are compressed by xz.

#![no_main]

use carpel_fuzz::stream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    stream(b"\xFD7zXZ\0", data);
});
