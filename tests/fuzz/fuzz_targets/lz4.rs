//! Kernels that are compressed by LZ4, in either frame.

#![no_main]

use carpel_fuzz::stream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for signature in [b"\x02\x21\x4C\x18", b"\x04\x22\x4D\x18"] {
        stream(signature, data);
    }
});
