//! EFI zboot images.

#![no_main]

use carpel_arch::map::Arch;
use carpel_fuzz::{file, signed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    file(Arch::Aarch64, &signed(data, &[(0, b"MZ"), (4, b"zimg")]));
});
