//! A disk whose changes are thrown away: they go to a temporary file without a name, which ends with the process however that ends.

use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use vm_memory::VolatileSlice;

use super::raw::RawImage;
use super::storage::Storage;

/// What is kept whole, in bytes: pages of guests and of the host's cache, so that most writes need nothing of the image.
const BLOCK: u64 = 4096;

/// An image and what was written over it.
pub struct Ephemeral {
    image: Arc<dyn Storage>,
    overlay: RawImage,
    /// The blocks that `overlay` has.
    changed: RwLock<BlockSet>,
}

impl Ephemeral {
    /// Nothing is ever written to the image.
    pub fn new(image: Arc<dyn Storage>) -> io::Result<Self> {
        let overlay = RawImage::temporary(image.size())?;
        let changed = RwLock::new(BlockSet::new(image.size().div_ceil(BLOCK)));
        Ok(Self { image, overlay, changed })
    }

    fn changed(&self) -> RwLockReadGuard<'_, BlockSet> {
        self.changed.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has blocks of a range changed by `change`, of which others see all or nothing.
    fn change(&self, offset: u64, length: u64, change: impl FnOnce(&RawImage) -> io::Result<()>) -> io::Result<()> {
        let mut changed = self.changed.write().unwrap_or_else(PoisonError::into_inner);
        let blocks = offset / BLOCK..(offset + length).div_ceil(BLOCK);
        // Only the first and the last may be changed in part.
        self.fill(&mut changed, offset / BLOCK, !offset.is_multiple_of(BLOCK))?;
        let end = offset + length;
        self.fill(&mut changed, end / BLOCK, !end.is_multiple_of(BLOCK))?;
        change(&self.overlay)?;
        blocks.for_each(|block| changed.insert(block));
        Ok(())
    }

    /// Takes a block over from the image if that is needed and has not been done.
    fn fill(&self, changed: &mut RwLockWriteGuard<'_, BlockSet>, block: u64, needed: bool) -> io::Result<()> {
        if needed && !changed.contains(block) {
            let start = block * BLOCK;
            let mut bytes = vec![0; (self.image.size() - start).min(BLOCK) as usize];
            let slice = [VolatileSlice::from(&mut bytes[..])];
            self.image.read(&slice, start)?;
            self.overlay.write(&slice, start)?;
            changed.insert(block);
        }
        Ok(())
    }
}

impl Storage for Ephemeral {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn read(&self, into: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let changed = self.changed();
        let length: u64 = into.iter().map(|slice| slice.len() as u64).sum();
        let mut at = offset;
        while at < offset + length {
            let (is_changed, end) = changed.run(at, offset + length);
            let part = part(into, at - offset..end - offset)?;
            if is_changed {
                self.overlay.read(&part, at)?;
            } else {
                self.image.read(&part, at)?;
            }
            at = end;
        }
        Ok(())
    }

    fn write(&self, from: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let length = from.iter().map(|slice| slice.len() as u64).sum();
        self.change(offset, length, |overlay| overlay.write(from, offset))
    }

    fn flush(&self) -> io::Result<()> {
        // Nothing is to outlive the guest.
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        // What changed becomes zeros, and may; the image's own blocks stay.
        let _changed = self.changed();
        self.overlay.discard(offset, length)
    }

    fn zero(&self, offset: u64, length: u64, _unmap: bool) -> io::Result<()> {
        self.change(offset, length, |overlay| overlay.zero(offset, length, true))
    }
}

/// The slices' bytes of this range.
fn part<'a>(slices: &[VolatileSlice<'a>], range: Range<u64>) -> io::Result<Vec<VolatileSlice<'a>>> {
    let mut parts = Vec::new();
    let mut start = 0;
    for slice in slices {
        let end = start + slice.len() as u64;
        let (from, to) = (range.start.max(start), range.end.min(end));
        if from < to {
            let part = slice.subslice((from - start) as usize, (to - from) as usize);
            parts.push(part.map_err(io::Error::other)?);
        }
        start = end;
    }
    Ok(parts)
}

/// A set of blocks, a bit for each. The host gives memory only for what was touched of it.
struct BlockSet(Vec<u64>);

impl BlockSet {
    fn new(blocks: u64) -> Self {
        Self(vec![0; blocks.div_ceil(64) as usize])
    }

    fn contains(&self, block: u64) -> bool {
        self.0.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 != 0)
    }

    fn insert(&mut self, block: u64) {
        if let Some(word) = self.0.get_mut((block / 64) as usize) {
            *word |= 1 << (block % 64);
        }
    }

    /// Whether the byte at `start` is in the set, and up to where, at most `end`, the bytes behind it are like it.
    fn run(&self, start: u64, end: u64) -> (bool, u64) {
        let mut block = start / BLOCK;
        let is_in = self.contains(block);
        while block * BLOCK < end && self.contains(block) == is_in {
            block += 1;
        }
        (is_in, end.min(block * BLOCK))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The last block is not whole.
    const SIZE: usize = 5 * BLOCK as usize + 512;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u8),
        Zero,
        Read,
    }

    fn steps() -> impl Strategy<Value = Vec<(Step, usize, usize)>> {
        let step = prop_oneof![any::<u8>().prop_map(Step::Write), Just(Step::Zero), Just(Step::Read)];
        let range = (0..SIZE / 512, 0..24_usize).prop_map(|(sector, sectors)| {
            let start = sector * 512;
            (start, (start + sectors * 512).min(SIZE))
        });
        prop::collection::vec((step, range).prop_map(|(step, (start, end))| (step, start, end)), 1..40)
    }

    fn image() -> (RawImage, Vec<u8>) {
        let mut bytes: Vec<u8> = (0..SIZE).map(|at| (at / 512 + 1) as u8).collect();
        let image = RawImage::temporary(SIZE as u64).unwrap();
        image.write(&[VolatileSlice::from(&mut bytes[..])], 0).unwrap();
        (image, bytes)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_the_image_stays(steps in steps()) {
            let (image, original) = image();
            let disk = Ephemeral::new(Arc::new(image)).unwrap();
            let mut expected = original.clone();
            for (step, start, end) in steps {
                match step {
                    Step::Write(byte) => {
                        expected[start..end].fill(byte);
                        let mut bytes = vec![byte; end - start];
                        let (left, right) = bytes.split_at_mut((end - start) / 3);
                        disk.write(&[VolatileSlice::from(left), VolatileSlice::from(right)], start as u64).unwrap();
                    }
                    Step::Zero => {
                        expected[start..end].fill(0);
                        disk.zero(start as u64, (end - start) as u64, true).unwrap();
                    }
                    Step::Read => {
                        let mut bytes = vec![0x55; end - start];
                        let (left, right) = bytes.split_at_mut((end - start) / 2);
                        disk.read(&[VolatileSlice::from(left), VolatileSlice::from(right)], start as u64).unwrap();
                        prop_assert!(bytes == expected[start..end]);
                    }
                }
            }
            let mut bytes = vec![0; SIZE];
            disk.read(&[VolatileSlice::from(&mut bytes[..])], 0).unwrap();
            prop_assert!(bytes == expected);
            disk.image.read(&[VolatileSlice::from(&mut bytes[..])], 0).unwrap();
            prop_assert!(bytes == original);
        }
    }
}
