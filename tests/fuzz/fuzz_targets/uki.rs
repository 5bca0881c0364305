//! Unified kernel images: their headers are what is fuzzed, behind signatures that hold.

#![no_main]

use carpel_arch::map::Arch;
use carpel_fuzz::{file, signed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    file(
        Arch::X86_64,
        &signed(data, &[(0, b"MZ"), (0x3C, &[0x40, 0, 0, 0]), (0x40, b"PE\0\0\x64\x86"), (0x68, b".linux\0\0")]),
    );
});
