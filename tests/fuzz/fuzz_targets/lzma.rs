//! Kernels that are compressed by LZMA.

#![no_main]

use carpel_fuzz::stream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    stream(b"\x5D\0\0", data);
});
