//! arm64's Image.

#![no_main]

use carpel_arch::map::Arch;
use carpel_fuzz::{kernel, signed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    kernel(Arch::Aarch64, &signed(data, &[(0x38, b"ARM\x64")]));
});
