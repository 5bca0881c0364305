//! Kernels that are compressed by zstd.

#![no_main]

use carpel_fuzz::stream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    stream(b"\x28\xB5\x2F\xFD", data);
});
