//! Kernels that are compressed by gzip.

#![no_main]

use carpel_fuzz::stream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    stream(b"\x1F\x8B\x08", data);
});
