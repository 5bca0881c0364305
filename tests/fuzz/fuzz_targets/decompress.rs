//! Every decompressor, and the payload of a bzImage. The compression follows from the input's own signature.

#![no_main]

use carpel_arch::map::{Arch, Boot};
use carpel_vmm::loader::{Source, unpack};
use libfuzzer_sys::fuzz_target;

/// Guest memory in bytes: what is unpacked must not be more.
const LIMIT: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    if data.is_empty() {
        return;
    }
    for wanted in [None, Some(Boot::Pvh)] {
        if let Ok(image) = unpack(Arch::X86_64, Source::from_vec(data.to_vec()), wanted, LIMIT) {
            assert!(image.size() <= LIMIT.max(data.len() as u64));
        }
    }
});
