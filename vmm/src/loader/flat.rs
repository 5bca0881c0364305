//! Images without a header, for arm64: memory's contents, entered at their first byte.

use carpel_arch::map::{Boot, KernelExtent};

use super::image::CMDLINE_MAX;
use super::kernel::{Format, Kernel, Segment, Target};

/// Whether a file that begins so may be one: whether its first word is an instruction. Words whose bits 28 to 25 are one of these are
/// not allocated (Arm DDI 0487, "A64 instruction set encoding"); text and other formats' signatures often are such.
pub fn may_be_flat(start: &[u8]) -> bool {
    const UNALLOCATED: [u32; 3] = [0b0000, 0b0001, 0b0011];
    let first = start.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    first.is_some_and(|word| !UNALLOCATED.contains(&(word >> 25 & 0xF)))
}

/// An image of this many bytes.
pub fn kernel(size: u64) -> Kernel {
    Kernel {
        format: Format::Flat,
        extent: KernelExtent::Flat { size },
        segments: vec![Segment { offset: 0, size, target: Target::Kernel(0) }],
        entry: Target::Kernel(0),
        initrd_limit: u64::MAX,
        cmdline_max: CMDLINE_MAX,
        setup_header: Vec::new(),
        linux: None,
        boot: Boot::Linux,
        reason: "it has no header, and begins with an instruction",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::Source;
    use carpel_arch::map::Arch;

    #[test]
    fn an_image_without_a_header_is_taken_as_it_is() {
        // mov x0, #0
        let image = [0xD280_0000_u32; 100].map(u32::to_le_bytes).concat();
        let kernel = Kernel::probe(Arch::Aarch64, &Source::from_bytes(&image), None).unwrap();
        assert_eq!((kernel.format, kernel.extent), (Format::Flat, KernelExtent::Flat { size: 400 }));
        assert_eq!(kernel.segments, [Segment { offset: 0, size: 400, target: Target::Kernel(0) }]);
        assert!(Kernel::probe(Arch::X86_64, &Source::from_bytes(&image), None).is_err());
    }

    #[test]
    fn what_begins_with_no_instruction_is_no_image() {
        for start in [&b"\0\0\0\0\0"[..], b"#!/bin/sh\n", b"MZ\x90\0", b"\xd2"] {
            assert!(Kernel::probe(Arch::Aarch64, &Source::from_bytes(start), None).is_err(), "{start:?}");
        }
    }
}
