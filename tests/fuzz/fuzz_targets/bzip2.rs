//! Kernels that are compressed by bzip2.

#![no_main]

use carpel_fuzz::stream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    stream(b"BZh", data);
});
