//! Giving the host back the pages behind guest memory.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};
use nix::unistd::{SysconfVar, sysconf};
use vm_memory::VolatileSlice;

/// Lets go of the host's pages that lie wholly in this part of guest memory, which is anonymous: the guest finds zeros
/// there, in new pages. An error of the host's leaves things as they are, which costs memory only.
pub fn discard(slice: &VolatileSlice) {
    let Some(page) = page_size() else { return };
    let guard = slice.ptr_guard_mut();
    let skip = guard.as_ptr().align_offset(page);
    let length = slice.len().saturating_sub(skip) / page * page;
    if let (Some(start), 1..) = (NonNull::new(guard.as_ptr().wrapping_add(skip)), length) {
        // SAFETY: `length` is not 0, so `start` and `length` lie inside the slice, which is mapped; both are multiples of the
        // page size, so the call touches nothing else. Guest memory changes at any time anyway, so nothing here holds
        // references to what is in it.
        let result = unsafe { madvise(start.cast(), length, MmapAdvise::MADV_DONTNEED) };
        if let Err(error) = result {
            log::debug!("The host keeps {length} bytes that the guest gave back: {error}");
        }
    }
}

fn page_size() -> Option<usize> {
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

    #[test]
    fn whole_pages_become_zero_and_others_stay() {
        let page = page_size().unwrap();
        let size = 4 * page;
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), size)]).unwrap();
        let left_after = |start: usize, length: usize| {
            memory.write_slice(&vec![0x55; size], GuestAddress(0)).unwrap();
            discard(&memory.get_slice(GuestAddress(start as u64), length).unwrap());
            let mut bytes = vec![0; size];
            memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
            bytes.chunks(page).map(|page| page.iter().all(|&byte| byte == 0x55)).collect::<Vec<_>>()
        };
        assert_eq!(left_after(0, size), [false; 4]);
        assert_eq!(left_after(page, page), [true, false, true, true]);
        assert_eq!(left_after(1, size - 2), [true, false, false, true]);
        assert_eq!(left_after(page + 1, page), [true; 4]);
        assert_eq!(left_after(page - 1, page + 1), [true, false, true, true]);
        assert_eq!(left_after(1, 1), [true; 4]);
    }
}
