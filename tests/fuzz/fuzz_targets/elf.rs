//! ELF files with their notes, and Multiboot headers in them. The first byte chooses the architecture.

#![no_main]

use carpel_arch::map::Arch;
use carpel_fuzz::{kernel, signed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, image)) = data.split_first() else { return };
    kernel(Arch::ALL[usize::from(first) % Arch::ALL.len()], &signed(image, &[(0, b"\x7FELF")]));
});
