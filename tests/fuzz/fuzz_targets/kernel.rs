//! Every parser of kernel images: bzImage, ELF with its notes, Multiboot, and arm64's Image. The format follows from the
//! input's own signature, as in `carpel run`; its first byte chooses the architecture.

#![no_main]

use carpel_arch::map::{Arch, KernelExtent};
use carpel_vmm::loader::{Kernel, Source, Target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, image)) = data.split_first() else { return };
    if image.is_empty() {
        return;
    }
    let source = Source::from_vec(image.to_vec());
    let Ok(ways) = Kernel::ways(Arch::ALL[usize::from(first) % Arch::ALL.len()], &source) else { return };
    for way in ways {
        for segment in &way.segments {
            assert!(segment.offset.checked_add(segment.size).is_some_and(|end| end <= source.size()));
            if let (Target::At(start), KernelExtent::Fixed { start: low, end: high }) = (segment.target, way.extent) {
                assert!(low <= start && start.checked_add(segment.size).is_some_and(|end| end <= high));
            }
        }
    }
});
