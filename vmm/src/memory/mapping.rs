//! One range of guest RAM in the process's address space.

use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use vm_memory::FileOffset;

use super::HUGE_PAGE;

/// What a mapping is made of. All but anonymous memory may have a file behind it.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// Anonymous memory.
    Anonymous {
        /// Small pages at the start.
        small_start: bool,
    },
    /// A memfd's memory.
    Memfd {
        /// Small pages at the start.
        small_start: bool,
    },
    /// Huge pages of the pool.
    HugePages,
    /// What a file holds.
    File {
        /// Whether what is written goes to it.
        shared: bool,
    },
}

impl Content {
    /// How it is mapped.
    pub const fn flags(self) -> MapFlags {
        match self {
            // Overcommitted.
            Self::Anonymous { .. } | Self::File { shared: false } => {
                MapFlags::MAP_PRIVATE.union(MapFlags::MAP_NORESERVE)
            }
            Self::Memfd { .. } => MapFlags::MAP_SHARED.union(MapFlags::MAP_NORESERVE),
            // Reserved: without that, who touches a page that the pool no longer has is killed by SIGBUS.
            // Shared also where no one shares them: a page that goes back from a private mapping stays set aside for it
            // (Linux 6.18), and is of no use to others.
            Self::HugePages => MapFlags::MAP_SHARED.union(MapFlags::MAP_HUGETLB),
            Self::File { shared: true } => MapFlags::MAP_SHARED,
        }
    }

    /// Whether it starts with small pages, where the host backs it by transparent huge pages otherwise.
    const fn small_start(self) -> Option<bool> {
        match self {
            Self::Anonymous { small_start } | Self::Memfd { small_start } => Some(small_start),
            Self::HugePages | Self::File { .. } => None,
        }
    }
}

/// Memory that starts at a huge page's boundary.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    /// All that was mapped: more than is used, so that an aligned start lies in it. What is never touched costs
    /// nothing.
    whole: (NonNull<u8>, NonZeroUsize),
}

// SAFETY: the mapping is plain memory of the process; nothing about it belongs to a thread.
unsafe impl Send for Mapping {}

const ACCESS: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

impl Mapping {
    /// Maps so many bytes of the content: of the file from its offset on, if there is one.
    pub fn new(length: NonZeroUsize, file: Option<&FileOffset>, content: Content) -> Result<Self, Errno> {
        let mapping = match (file, content) {
            // Linux itself aligns mappings of its pool's pages, and reserves a page for every one that is mapped.
            (None, Content::HugePages) => Self::exactly(length, content.flags())?,
            (None, _) => Self::aligned(length, ACCESS, content.flags())?,
            (Some(file), Content::HugePages) => Self::of_huge_file(length, file, content.flags())?,
            (Some(file), _) => Self::of_file(length, file, content.flags())?,
        };
        if let Some(small_start) = content.small_start() {
            mapping.advise(length.get(), small_start);
        }
        Ok(mapping)
    }

    /// Where the memory starts.
    pub const fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    fn exactly(length: NonZeroUsize, flags: MapFlags) -> Result<Self, Errno> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { mmap_anonymous(None, length, ACCESS, flags)? }.cast();
        Ok(Self { start, whole: (start, length) })
    }

    fn of_huge_file(length: NonZeroUsize, file: &FileOffset, flags: MapFlags) -> Result<Self, Errno> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { mmap(None, length, ACCESS, flags, file.file(), offset(file)?)? }.cast();
        Ok(Self { start, whole: (start, length) })
    }

    fn aligned(length: NonZeroUsize, access: ProtFlags, flags: MapFlags) -> Result<Self, Errno> {
        let whole = length.checked_add(HUGE_PAGE).ok_or(Errno::ENOMEM)?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no other memory.
        let mapped = unsafe { mmap_anonymous(None, whole, access, flags)? }.cast::<u8>();
        // SAFETY: the offset is less than a huge page, so `length` bytes from there on lie inside the mapping.
        let start = unsafe { mapped.add(mapped.align_offset(HUGE_PAGE)) };
        Ok(Self { start, whole: (mapped, whole) })
    }

    /// A file's part takes the place of addresses that were set aside for it.
    fn of_file(length: NonZeroUsize, file: &FileOffset, flags: MapFlags) -> Result<Self, Errno> {
        let no_memory = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let mapping = Self::aligned(length, ProtFlags::PROT_NONE, no_memory)?;
        let address = mapping.start.addr();
        // SAFETY: the addresses lie inside the mapping just made, which nothing refers to yet.
        unsafe { mmap(Some(address), length, ACCESS, flags | MapFlags::MAP_FIXED, file.file(), offset(file)?)? };
        Ok(mapping)
    }

    /// Advice that the host cannot follow only costs speed.
    fn advise(&self, length: usize, small_start: bool) {
        let small = if small_start { length.min(HUGE_PAGE) } else { 0 };
        for (offset, length, advice) in
            [(0, small, MmapAdvise::MADV_NOHUGEPAGE), (small, length - small, MmapAdvise::MADV_HUGEPAGE)]
        {
            // SAFETY: the range lies inside the mapping, and the advice changes no byte of it.
            let _ = unsafe { madvise(self.start.add(offset).cast(), length, advice) };
        }
    }
}

fn offset(file: &FileOffset) -> Result<libc::off_t, Errno> {
    file.start().try_into().map_err(|_| Errno::EOVERFLOW)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (start, length) = self.whole;
        // SAFETY: the mapping is this one's own, and what refers to it is dropped before it.
        let result = unsafe { munmap(start.cast(), length.get()) };
        debug_assert!(result.is_ok());
    }
}
