//! Which pages of the host's are wholly in the balloon, where they are larger than the balloon's own.

use std::collections::BTreeMap;

use super::PAGE;

/// The host's pages of which at least a part is in the balloon: one bit for each page of the balloon's.
///
/// A guest gives up a huge page piece by piece (Linux: 1 MiB at a time, in any order), and only whole ones can go back.
pub struct HostPages {
    /// Pages of the balloon's in one of the host's.
    parts: u64,
    pages: BTreeMap<u64, HostPage>,
}

struct HostPage {
    /// A bit for each part that is in the balloon ...
    bits: Vec<u64>,
    /// ... and how many are set.
    set: u64,
    /// Whether the host has it back.
    gone: bool,
}

impl HostPages {
    /// Nothing is in the balloon. A page of the host's has this many bytes.
    pub const fn new(page: usize) -> Self {
        Self { parts: page as u64 / PAGE, pages: BTreeMap::new() }
    }

    /// Whether the host's pages are larger than the balloon's, so that this matters.
    pub const fn are_larger(&self) -> bool {
        self.parts > 1
    }

    /// The balloon is empty again.
    pub fn clear(&mut self) {
        self.pages.clear();
    }

    /// Takes a page of the balloon's at this guest physical address into it; returns where a page of the host's starts
    /// that is wholly in it.
    pub fn insert(&mut self, address: u64) -> Option<u64> {
        let (number, part) = self.split(address);
        let words = self.parts.div_ceil(u64::from(u64::BITS)) as usize;
        let page = self.pages.entry(number).or_insert_with(|| HostPage { bits: vec![0; words], set: 0, gone: false });
        let (word, bit) = word_and_bit(part);
        page.set += u64::from(page.bits[word] & bit == 0);
        page.bits[word] |= bit;
        // Also when it was there before: the guest may have used it in between.
        page.gone = page.set == self.parts;
        page.gone.then_some(number * self.parts * PAGE)
    }

    /// Takes a page out of the balloon; returns where the page of the host's starts that comes back with it.
    pub fn remove(&mut self, address: u64) -> Option<u64> {
        let (number, part) = self.split(address);
        let page = self.pages.get_mut(&number)?;
        let (word, bit) = word_and_bit(part);
        page.set -= u64::from(page.bits[word] & bit != 0);
        page.bits[word] &= !bit;
        let comes_back = std::mem::take(&mut page.gone);
        if page.set == 0 {
            self.pages.remove(&number);
        }
        comes_back.then_some(number * self.parts * PAGE)
    }

    /// The number of the host's page, and which part of it.
    const fn split(&self, address: u64) -> (u64, u64) {
        let frame = address / PAGE;
        (frame / self.parts, frame % self.parts)
    }
}

const fn word_and_bit(part: u64) -> (usize, u64) {
    ((part / u64::BITS as u64) as usize, 1 << (part % u64::BITS as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: u64 = 2 << 20;

    #[test]
    fn a_page_is_whole_when_all_its_parts_are_there_in_whatever_order() {
        let mut pages = HostPages::new(HUGE as usize);
        // Backwards, the second half first, each twice.
        let parts = (0..HUGE / PAGE).rev().map(|part| 7 * HUGE + part * PAGE);
        for (index, address) in parts.enumerate() {
            let whole = (index == 511).then_some(7 * HUGE);
            assert_eq!(pages.insert(address), whole, "{index}");
            assert_eq!(pages.insert(address), whole, "{index}");
        }
        assert_eq!(pages.insert(8 * HUGE), None);
        assert_eq!(pages.pages.len(), 2);
    }

    #[test]
    fn a_page_comes_back_once_and_goes_again_when_it_is_whole_again() {
        let mut pages = HostPages::new(HUGE as usize);
        let parts = || (0..HUGE / PAGE).map(|part| part * PAGE);
        assert_eq!(parts().filter_map(|address| pages.insert(address)).collect::<Vec<_>>(), [0]);
        assert_eq!(pages.remove(PAGE), Some(0));
        assert_eq!(pages.remove(PAGE), None);
        assert_eq!(pages.remove(2 * PAGE), None);
        assert_eq!(pages.insert(PAGE), None);
        assert_eq!(pages.insert(2 * PAGE), Some(0));
        assert_eq!(parts().filter_map(|address| pages.remove(address)).collect::<Vec<_>>(), [0]);
        assert!(pages.pages.is_empty());
        assert_eq!(pages.remove(0), None);
    }

    #[test]
    fn an_empty_balloon_has_no_parts() {
        let mut pages = HostPages::new(2 * PAGE as usize);
        assert!(pages.are_larger() && !HostPages::new(PAGE as usize).are_larger());
        assert_eq!(pages.insert(0), None);
        pages.clear();
        assert_eq!(pages.insert(PAGE), None);
    }
}
