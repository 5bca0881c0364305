//! Kernels that are compressed by LZ4's legacy frame.

#![no_main]

use carpel_fuzz::stream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    stream(b"\x02\x21\x4C\x18", data);
});
