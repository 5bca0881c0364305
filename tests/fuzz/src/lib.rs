//! What the fuzz targets check. Each target is for one parser, so that no run is spent on others' signatures.

pub mod virtio;

use carpel_arch::map::{Arch, Boot, KernelExtent};
use carpel_vmm::loader::{Handover, Kernel, Source, Target, unpack};

/// Guest memory in bytes: what is unpacked must not be more.
const LIMIT: u64 = 1 << 20;

/// Reads a kernel's headers: what they make load lies inside the file, and inside the memory that the kernel occupies.
pub fn kernel(arch: Arch, image: &[u8]) {
    if image.is_empty() {
        return;
    }
    let source = Source::from_vec(image.to_vec());
    if let Ok(Handover { setup_size, kernel_size, .. }) = Handover::probe(arch, &source) {
        assert!(setup_size + kernel_size <= source.size());
    }
    let Ok(ways) = Kernel::ways(arch, &source) else { return };
    for way in ways {
        for segment in &way.segments {
            assert!(segment.offset.checked_add(segment.size).is_some_and(|end| end <= source.size()));
            if let (Target::At(start), KernelExtent::Fixed { start: low, end: high }) = (segment.target, way.extent) {
                assert!(low <= start && start.checked_add(segment.size).is_some_and(|end| end <= high));
            }
        }
    }
}

/// Unpacks a file that starts with this signature.
pub fn stream(signature: &[u8], rest: &[u8]) {
    file(Arch::X86_64, &[signature, rest].concat());
}

/// Unpacks a file, and the payload inside a bzImage: no more comes out than the guest has memory.
pub fn file(arch: Arch, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    for wanted in [None, Some(Boot::Pvh)] {
        if let Ok(image) = unpack(arch, Source::from_vec(bytes.to_vec()), wanted, LIMIT) {
            assert!(image.kernel.size() <= LIMIT.max(bytes.len() as u64));
        }
    }
}

/// `bytes` with a signature written into them, so that the parser behind it is reached.
pub fn signed(bytes: &[u8], signatures: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for &(at, signature) in signatures {
        let end = at + signature.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[at..end].copy_from_slice(signature);
    }
    bytes
}
