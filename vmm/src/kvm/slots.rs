//! KVM's memory slots: their numbers, and how large one may be.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

/// The most bytes that one slot is given. KVM takes fewer than 2^31 pages in a slot (KVM_MEM_MAX_NR_PAGES in
/// include/linux/kvm_host.h), which have 4 KiB at least; half of that keeps the pieces aligned to pages of any size.
const SLOT_MAX: u64 = 1 << 42;

/// Gives out the numbers of a VM's slots, each once.
#[derive(Debug, Default)]
pub struct Slots(AtomicU32);

impl Slots {
    /// A number that no other slot has. KVM refuses one that is too large for it.
    pub fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The ranges of the slots that this range of guest physical addresses takes, lowest first.
pub fn pieces(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = *range;
    (start..end).step_by(SLOT_MAX as usize).map(move |start| start..end.min(start.saturating_add(SLOT_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: u64 = 1 << 40;
    /// KVM_MEM_MAX_NR_PAGES.
    const PAGES_MAX: u64 = (1 << 31) - 1;

    #[test]
    fn numbers_are_given_out_once() {
        let slots = Slots::default();
        assert_eq!([slots.next(), slots.next(), slots.next()], [0, 1, 2]);
    }

    #[test]
    fn ranges_of_any_size_become_slots_that_kvm_takes() {
        let starts = [0, 0xC000_0000, 1 << 32, 512 << 30];
        let sizes = [4096, 1 << 30, 4 * TIB - 4096, 4 * TIB, 8 * TIB - 4096, 8 * TIB, 8 * TIB + 4096, 4000 * TIB];
        for range in starts.iter().flat_map(|&start| sizes.map(|size| start..start + size)) {
            let all: Vec<_> = pieces(&range).collect();
            assert_eq!((all[0].start, all[all.len() - 1].end), (range.start, range.end));
            assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start), "{all:?}");
            assert!(all.iter().all(|piece| (1..=PAGES_MAX).contains(&((piece.end - piece.start) / 4096))), "{all:?}");
            assert!(range.end - range.start > 4 * TIB || all.len() == 1, "{all:?}");
        }
        assert_eq!(pieces(&(0..0)).count(), 0);
    }
}
