//! Guest RAM: anonymous memory, mapped so that transparent huge pages apply.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionCollectionError, GuestRegionMmap, MmapRegion};

/// Size of a huge page of the host's, and the alignment that lets one back guest memory, in bytes.
pub const HUGE_PAGE: usize = 2 << 20;

/// The RAM of one guest. It is unmapped when dropped: drop what runs the guest before.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap,
    /// Keeps what `memory` refers to mapped.
    _mappings: Vec<Mapping>,
}

/// Why there is no RAM.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The host gives no address space.
    #[error("Cannot map {size} bytes of guest memory")]
    Map {
        /// Bytes.
        size: u64,
        /// The cause.
        source: Errno,
    },
    /// The ranges do not make a guest memory.
    #[error("Cannot use {start:#x}-{end:#x} as guest memory")]
    Region {
        /// First guest physical address.
        start: u64,
        /// End, exclusive.
        end: u64,
    },
    /// The ranges overlap.
    #[error("Cannot combine the ranges of guest memory")]
    Collection(#[from] GuestRegionCollectionError),
}

impl GuestRam {
    /// Maps RAM for these guest physical ranges. Host memory is taken when the guest touches it, not before: in huge pages,
    /// or with `small_start` in small ones in the first [`HUGE_PAGE`] of each range.
    pub fn new(ranges: &[Range<u64>], small_start: bool) -> Result<Self, MemoryError> {
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        for range in ranges {
            let size = range.end - range.start;
            let region_error = || MemoryError::Region { start: range.start, end: range.end };
            let length = usize::try_from(size).ok().and_then(NonZeroUsize::new).ok_or_else(region_error)?;
            let mapping = Mapping::new(length, small_start).map_err(|source| MemoryError::Map { size, source })?;
            // SAFETY: the mapping has `length` bytes from `start` on, is private to it, and outlives the region.
            let region = unsafe {
                MmapRegion::build_raw(
                    mapping.start.as_ptr(),
                    length.get(),
                    ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE).bits(),
                    Mapping::FLAGS.bits(),
                )
            };
            let region = region.ok().and_then(|region| GuestRegionMmap::new(region, GuestAddress(range.start)));
            regions.push(region.ok_or_else(region_error)?);
            mappings.push(mapping);
        }
        Ok(Self { memory: GuestMemoryMmap::from_regions(regions)?, _mappings: mappings })
    }

    /// Access to the guest's memory.
    pub const fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }
}

/// Anonymous memory that starts at a huge page's boundary.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    /// All that was mapped: more than is used, so that an aligned start lies in it. What is never touched costs nothing.
    whole: (NonNull<u8>, NonZeroUsize),
}

// SAFETY: the mapping is plain memory of the process; nothing about it belongs to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Overcommitted: a guest may be larger than the host's memory as long as it does not use it all.
    const FLAGS: MapFlags = MapFlags::MAP_PRIVATE.union(MapFlags::MAP_NORESERVE);

    fn new(length: NonZeroUsize, small_start: bool) -> Result<Self, Errno> {
        let whole = length.checked_add(HUGE_PAGE).ok_or(Errno::ENOMEM)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
        let mapped = unsafe { mmap_anonymous(None, whole, access, Self::FLAGS)? }.cast::<u8>();
        // SAFETY: the offset is less than a huge page, so `length` bytes from there on lie inside the mapping.
        let start = unsafe { mapped.add(mapped.align_offset(HUGE_PAGE)) };
        let small = if small_start { length.get().min(HUGE_PAGE) } else { 0 };
        for (offset, length, advice) in
            [(0, small, MmapAdvise::MADV_NOHUGEPAGE), (small, length.get() - small, MmapAdvise::MADV_HUGEPAGE)]
        {
            // SAFETY: the range lies inside the mapping just made. Advice that the host cannot follow only costs speed.
            let _ = unsafe { madvise(start.add(offset).cast(), length, advice) };
        }
        Ok(Self { start, whole: (mapped, whole) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (start, length) = self.whole;
        // SAFETY: the mapping is this one's own, and what refers to it is dropped before it.
        let result = unsafe { munmap(start.cast(), length.get()) };
        debug_assert!(result.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, GuestMemoryBackend};

    #[test]
    fn ram_is_zero_writable_and_aligned_for_huge_pages() {
        let ram = GuestRam::new(&[0..4 << 20, 1 << 32..(1 << 32) + 0x3000], true).unwrap();
        for address in [0, (4 << 20) - 8, 1 << 32, (1 << 32) + 0x2FF8] {
            assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(address)).unwrap(), 0);
            ram.memory().write_obj(7_u64, GuestAddress(address)).unwrap();
            assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(address)).unwrap(), 7);
        }
        assert!(ram.memory().write_obj(7_u64, GuestAddress(4 << 20)).is_err());
        for start in [0, 1 << 32] {
            let host = ram.memory().get_host_address(GuestAddress(start)).unwrap();
            assert_eq!(host.align_offset(HUGE_PAGE), 0);
        }
    }

    #[test]
    fn more_than_the_host_has_is_one_error() {
        let error = GuestRam::new(std::slice::from_ref(&(0..1 << 47)), false).unwrap_err();
        assert_eq!(error.to_string(), "Cannot map 140737488355328 bytes of guest memory");
    }
}
