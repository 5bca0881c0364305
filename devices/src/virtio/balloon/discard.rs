//! Giving the host back the pages behind guest memory, in the way that suits what is behind it.

#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MmapAdvise, madvise};
use nix::unistd::{SysconfVar, sysconf};
use vm_memory::VolatileSlice;

use crate::virtio::backing::RamBacking;

/// How pages go back to the host, and come from it again.
#[derive(Clone, Copy, Debug)]
pub struct Discard {
    /// Nothing goes back where there is none.
    advice: Option<MmapAdvise>,
    /// Size of a page of the host's in bytes.
    page: usize,
    /// Whether a page that went back may be somebody else's when it is wanted again.
    is_pooled: bool,
}

impl Discard {
    /// For this kind of memory.
    pub fn new(backing: RamBacking) -> Self {
        // A hole in the file behind the memory: its pages outlive any mapping (madvise(2)).
        let remove = Some(MmapAdvise::MADV_REMOVE);
        let (advice, huge) = match backing {
            RamBacking::Anonymous => (Some(MmapAdvise::MADV_DONTNEED), None),
            RamBacking::Memfd => (remove, None),
            RamBacking::HugePages { size } => (remove, Some(size)),
            RamBacking::File => (None, None),
        };
        // Without a size of pages, nothing is known to be one.
        let page = huge.or_else(page_size);
        Self { advice: advice.filter(|_| page.is_some()), page: page.unwrap_or(1), is_pooled: huge.is_some() }
    }

    /// Size of a page of the host's in bytes: what goes back is whole ones.
    pub const fn page(&self) -> usize {
        self.page
    }

    /// Whether the guest's pages come out of a pool, in which others take them once they went back.
    pub const fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Lets go of the host's pages that lie wholly in this part of guest memory: the guest finds zeros there, in new
    /// pages. An error of the host's leaves things as they are, which costs memory only.
    pub fn discard(&self, slice: &VolatileSlice) {
        let (Some(advice), Some((start, length))) = (self.advice, self.whole_pages(slice)) else { return };
        // SAFETY: `start` and `length` lie inside the slice, which is mapped, and are multiples of the size of its
        // pages, so the call touches nothing else. Guest memory changes at any time anyway, so nothing here holds
        // references to what is in it.
        let result = unsafe { madvise(start.cast(), length, advice) };
        if let Err(error) = result {
            log::debug!("The host keeps {length} bytes that the guest gave back: {error}");
        }
    }

    /// Has the host give the pages that lie wholly in this part of guest memory, as long as an error can be told:
    /// whoever touches a page that the pool cannot give is killed.
    pub fn populate(&self, slice: &VolatileSlice) -> io::Result<()> {
        let Some((start, length)) = self.whole_pages(slice) else { return Ok(()) };
        // SAFETY: as above; the call reads no byte of these pages and changes none.
        let result = unsafe { libc::madvise(start.as_ptr().cast(), length, libc::MADV_POPULATE_WRITE) };
        match Errno::result(result) {
            // Linux before 5.14 cannot say.
            Ok(_) | Err(Errno::EINVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The host's pages that lie wholly in the slice, if there are any: where, and how many bytes.
    fn whole_pages(&self, slice: &VolatileSlice) -> Option<(NonNull<u8>, usize)> {
        let guard = slice.ptr_guard_mut();
        let skip = guard.as_ptr().align_offset(self.page);
        let length = slice.len().saturating_sub(skip) / self.page * self.page;
        let start = NonNull::new(guard.as_ptr().wrapping_add(skip))?;
        (length > 0).then_some((start, length))
    }
}

fn page_size() -> Option<usize> {
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use vm_memory::{Bytes as _, FileOffset, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

    use super::*;

    /// Which pages of four are left as they were when a part of them went back; the others must be zero.
    fn left_after(memory: &GuestMemoryMmap, discard: Discard, start: usize, length: usize) -> Vec<bool> {
        let size = 4 * discard.page();
        memory.write_slice(&vec![0x55; size], GuestAddress(0)).unwrap();
        discard.discard(&memory.get_slice(GuestAddress(start as u64), length).unwrap());
        let mut bytes = vec![0; size];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        let left = bytes.chunks(discard.page()).map(|page| {
            assert!(page.iter().all(|&byte| byte == page[0]) && [0, 0x55].contains(&page[0]));
            page[0] != 0
        });
        left.collect()
    }

    fn of_file(file: File, size: usize) -> GuestMemoryMmap {
        file.set_len(size as u64).unwrap();
        let range = (GuestAddress(0), size, Some(FileOffset::new(file, 0)));
        GuestMemoryMmap::from_ranges_with_files([range]).unwrap()
    }

    fn memfd() -> File {
        memfd_create("test", MFdFlags::MFD_CLOEXEC).unwrap().into()
    }

    #[test]
    fn whole_pages_become_zero_and_others_stay() {
        let page = page_size().unwrap();
        let size = 4 * page;
        let anonymous = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap();
        for (memory, backing) in [(anonymous, RamBacking::Anonymous), (of_file(memfd(), size), RamBacking::Memfd)] {
            let left_after = |start, length| left_after(&memory, Discard::new(backing), start, length);
            assert_eq!(left_after(0, size), [false; 4]);
            assert_eq!(left_after(page, page), [true, false, true, true]);
            assert_eq!(left_after(1, size - 2), [true, false, false, true]);
            assert_eq!(left_after(page + 1, page), [true; 4]);
            assert_eq!(left_after(page - 1, page + 1), [true, false, true, true]);
            assert_eq!(left_after(1, 1), [true; 4]);
        }
    }

    #[test]
    fn a_memfd_has_less_memory_when_pages_went_back() {
        let (file, size) = (memfd(), 1 << 20);
        let blocks = || file.metadata().unwrap().blocks() * 512;
        let memory = of_file(file.try_clone().unwrap(), size);
        let slice = |start, length| memory.get_slice(GuestAddress(start), length).unwrap();
        memory.write_slice(&vec![0x55; size], GuestAddress(0)).unwrap();
        assert_eq!(blocks(), size as u64);
        // What is right for anonymous memory frees nothing of it.
        Discard::new(RamBacking::Anonymous).discard(&slice(0, size));
        assert_eq!(blocks(), size as u64);
        Discard::new(RamBacking::Memfd).discard(&slice(0, size / 4));
        assert_eq!(blocks(), size as u64 * 3 / 4);
        Discard::new(RamBacking::Memfd).discard(&slice(0, size));
        assert_eq!(blocks(), 0);
    }

    #[test]
    fn huge_pages_go_back_by_whole_ones() {
        // The host's pool may be empty: pages of any memory stand for its own, so many at a time.
        let huge = 16 * page_size().unwrap();
        let backing = RamBacking::HugePages { size: huge };
        let (discard, file) = (Discard::new(backing), memfd());
        let memory = of_file(file.try_clone().unwrap(), 8 * huge);
        let host = memory.get_host_address(GuestAddress(0)).unwrap();
        // Where the first one begins.
        let first = host.align_offset(huge);
        let left = |start: usize, length: usize| {
            memory.write_slice(&vec![0x55; 8 * huge], GuestAddress(0)).unwrap();
            discard.discard(&memory.get_slice(GuestAddress((first + start) as u64), length).unwrap());
            file.metadata().unwrap().blocks() * 512 / huge as u64
        };
        assert_eq!(left(0, huge - 1), 8);
        assert_eq!(left(1, huge), 8);
        assert_eq!(left(1, 2 * huge), 7);
        assert_eq!(left(0, 3 * huge), 5);
    }

    #[test]
    fn a_users_file_keeps_what_is_in_it() {
        let (file, page) = (tempfile::tempfile().unwrap(), page_size().unwrap());
        let memory = of_file(file.try_clone().unwrap(), 4 * page);
        assert_eq!(left_after(&memory, Discard::new(RamBacking::File), 0, 4 * page), [true; 4]);
        let mut bytes = vec![0; 4 * page];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, vec![0x55; 4 * page]);
    }
}
