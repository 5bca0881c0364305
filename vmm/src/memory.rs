//! Guest RAM: ranges of guest physical addresses, and what the host has behind them.

mod huge_pages;
mod mapping;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;

use carpel_devices::virtio::backing::RamBacking;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::ProtFlags;
use thiserror::Error;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionCollectionError, GuestRegionMmap};

pub use huge_pages::Pool;
use mapping::{Content, Mapping};

/// Size of a huge page of the host's, and the alignment that lets one back guest memory, in bytes.
pub const HUGE_PAGE: usize = 2 << 20;

/// Of a memfd that nobody can make executable, and that therefore takes seals (Linux 6.3, include/uapi/linux/memfd.h).
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);

/// What shall stand behind guest RAM.
#[derive(Clone, Copy, Debug)]
pub enum Backing<'a> {
    /// Anonymous memory. Host memory is taken when the guest touches it, not before: in transparent huge pages, or with
    /// `small_start` in small pages in the first [`HUGE_PAGE`] of each range. A guest may be larger than the host's
    /// memory as long as it does not use it all.
    Anonymous {
        /// Small pages at the start of each range.
        small_start: bool,
    },
    /// A memfd of its own, of a size that nobody changes, which other processes can map. Taken as anonymous memory is.
    Memfd {
        /// Small pages at the start of each range.
        small_start: bool,
    },
    /// Huge pages of the host's pool, of its default size, set aside from the start: what is there at the start is
    /// there when the guest touches it. Every range must be made of them.
    HugePages {
        /// Whether they are a memfd's, as above; otherwise no other process can map them.
        shared: bool,
    },
    /// A part of a file, which must have all of it; whoever makes it shorter meanwhile takes the memory away.
    File {
        /// The file, open for reading, and where it is shared also for writing.
        file: &'a File,
        /// Where the first range starts in it, in bytes; the others follow.
        offset: u64,
        /// Whether what the guest writes goes to the file; otherwise it is the guest's alone.
        shared: bool,
    },
}

impl Default for Backing<'_> {
    fn default() -> Self {
        Self::Anonymous { small_start: false }
    }
}

/// The RAM of one guest. It is unmapped when dropped: drop what runs the guest before.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemoryMmap,
    backing: RamBacking,
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
    /// There is no memfd.
    #[error("Cannot back guest memory by a memfd of {size} bytes: drop --shared-memory")]
    Memfd {
        /// Bytes.
        size: u64,
        /// The cause.
        source: io::Error,
    },
    /// A range is not made of huge pages.
    #[error(
        "Guest memory at {start:#x}-{end:#x} is not made of huge pages of {page} bytes: choose another --mem or \
         --layout, or drop --hugepages"
    )]
    HugePageSize {
        /// First guest physical address.
        start: u64,
        /// End, exclusive.
        end: u64,
        /// Bytes of a huge page.
        page: u64,
    },
    /// The host's pool has too few huge pages.
    #[error(
        "Guest memory needs {needed} huge pages of {} KiB, and this host has {} free: \
         `echo {} > /proc/sys/vm/nr_hugepages` as root, or drop --hugepages",
        .pool.page >> 10, .pool.available(), .pool.total_for(*.needed)
    )]
    TooFewHugePages {
        /// How many the guest needs.
        needed: u64,
        /// What there is.
        pool: Pool,
        /// The cause.
        source: Errno,
    },
    /// The host's kernel has no such pages.
    #[error("This host has no huge pages: run a kernel with CONFIG_HUGETLBFS, or drop --hugepages")]
    NoHugePages,
    /// The file cannot be asked.
    #[error("Cannot use a file as guest memory")]
    File(#[source] io::Error),
    /// The file ends too early.
    #[error("A file of {size} bytes is too short for guest memory at {start:#x}-{end:#x} of it")]
    ShortFile {
        /// Bytes.
        size: u64,
        /// Where the memory starts in it.
        start: u64,
        /// Where it ends, exclusive.
        end: u64,
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

impl MemoryError {
    /// Whether the configuration asks for what this host does not have, however much memory it has left.
    pub const fn is_of_configuration(&self) -> bool {
        match self {
            Self::HugePageSize { .. } | Self::TooFewHugePages { .. } | Self::NoHugePages | Self::Memfd { .. } => true,
            Self::Map { .. } | Self::File(_) | Self::ShortFile { .. } | Self::Region { .. } | Self::Collection(_) => {
                false
            }
        }
    }
}

impl GuestRam {
    /// Maps RAM for these guest physical ranges.
    pub fn new(ranges: &[Range<u64>], backing: Backing<'_>) -> Result<Self, MemoryError> {
        match backing {
            Backing::Anonymous { small_start } => {
                Self::map(ranges, None, Content::Anonymous { small_start }, RamBacking::Anonymous)
            }
            Backing::Memfd { small_start } => {
                let file = memfd(total(ranges), MFdFlags::empty())?;
                Self::map(ranges, Some((file, 0)), Content::Memfd { small_start }, RamBacking::Memfd)
            }
            Backing::HugePages { shared } => Self::huge_pages(ranges, shared),
            Backing::File { file, offset, shared } => {
                let size = file.metadata().map_err(MemoryError::File)?.len();
                let end = offset.saturating_add(total(ranges));
                if end > size {
                    return Err(MemoryError::ShortFile { size, start: offset, end });
                }
                let file = file.try_clone().map_err(MemoryError::File)?;
                Self::map(ranges, Some((file, offset)), Content::File { shared }, RamBacking::File)
            }
        }
    }

    fn huge_pages(ranges: &[Range<u64>], shared: bool) -> Result<Self, MemoryError> {
        let page = Pool::read().ok_or(MemoryError::NoHugePages)?.page;
        if let Some(range) = ranges.iter().find(|range| !(range.end - range.start).is_multiple_of(page)) {
            return Err(MemoryError::HugePageSize { start: range.start, end: range.end, page });
        }
        let file = shared.then(|| memfd(total(ranges), MFdFlags::MFD_HUGETLB)).transpose()?;
        let backing = RamBacking::HugePages { size: page as usize };
        let ram = Self::map(ranges, file.map(|file| (file, 0)), Content::HugePages, backing);
        ram.map_err(|error| match error {
            // By now, the ranges that the pool had enough for have given theirs back.
            MemoryError::Map { source: source @ Errno::ENOMEM, .. } => match Pool::read() {
                Some(pool) => MemoryError::TooFewHugePages { needed: total(ranges) / page, pool, source },
                None => MemoryError::NoHugePages,
            },
            error => error,
        })
    }

    fn map(
        ranges: &[Range<u64>],
        file: Option<(File, u64)>,
        content: Content,
        backing: RamBacking,
    ) -> Result<Self, MemoryError> {
        let mut file = file.map(|(file, offset)| FileOffset::new(file, offset));
        let mut mappings = Vec::new();
        let mut regions = Vec::new();
        for range in ranges {
            let size = range.end - range.start;
            let region_error = || MemoryError::Region { start: range.start, end: range.end };
            let length = usize::try_from(size).ok().and_then(NonZeroUsize::new).ok_or_else(region_error)?;
            let mapping = Mapping::new(length, file.as_ref(), content);
            let mapping = mapping.map_err(|source| MemoryError::Map { size, source })?;
            // SAFETY: the mapping has `length` bytes from `start` on, is private to it, and outlives the region.
            let region = unsafe { MmapRegionBuilder::<()>::new(length.get()).with_raw_mmap_pointer(mapping.start()) }
                .with_mmap_prot(ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE).bits())
                .with_mmap_flags(content.flags().bits());
            let region = match &file {
                Some(file) => region.with_file_offset(file.clone()),
                None => region,
            };
            let region = region.build().ok().and_then(|region| GuestRegionMmap::new(region, GuestAddress(range.start)));
            regions.push(region.ok_or_else(region_error)?);
            mappings.push(mapping);
            file = file.map(|file| FileOffset::from_arc(file.arc().clone(), file.start() + size));
        }
        Ok(Self { memory: GuestMemoryMmap::from_regions(regions)?, backing, _mappings: mappings })
    }

    /// Access to the guest's memory.
    pub const fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// What stands behind it.
    pub const fn backing(&self) -> RamBacking {
        self.backing
    }
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// A memfd of this size in bytes, sealed: what is mapped of it stays there.
fn memfd(size: u64, kind: MFdFlags) -> Result<File, MemoryError> {
    let create = |more| memfd_create("guest-ram", MFdFlags::MFD_CLOEXEC | kind | more);
    let make = || {
        // Linux before 6.3 does not know the first flag.
        let file = create(NOEXEC_SEAL).or_else(|error| match error {
            Errno::EINVAL => create(MFdFlags::MFD_ALLOW_SEALING),
            error => Err(error),
        });
        let file = File::from(file?);
        file.set_len(size)?;
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(file)
    };
    make().map_err(|source| MemoryError::Memfd { size, source })
}
