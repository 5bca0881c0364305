//! bzImage: its setup header, and its payload.

#![no_main]

use carpel_arch::map::Arch;
use carpel_fuzz::{file, kernel, signed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let image = signed(data, &[(0x1FE, b"\x55\xAA"), (0x202, b"HdrS")]);
    kernel(Arch::X86_64, &image);
    file(Arch::X86_64, &image);
});
