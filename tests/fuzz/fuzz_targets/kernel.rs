//! Kernel images of any format, which follows from the input's own signature as in `carpel run`; its first byte chooses
//! the architecture.

#![no_main]

use carpel_arch::map::Arch;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, image)) = data.split_first() else { return };
    carpel_fuzz::kernel(Arch::ALL[usize::from(first) % Arch::ALL.len()], image);
});
