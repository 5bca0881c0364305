//! Configuration space (section 5.2.4).

use super::QUEUE_SIZE;
use super::request::{DISCARD_SECTORS, DISCARD_SEGMENTS, SECTOR, ZERO_SECTORS};

/// Its size: up to the end of the fields that belong to features of virtio 1.2.
const SIZE: usize = 72;

const CAPACITY: usize = 0;
const SIZE_MAX: usize = 8;
const SEG_MAX: usize = 12;
const BLK_SIZE: usize = 20;
const PHYSICAL_BLOCK_EXP: usize = 24;
const MIN_IO_SIZE: usize = 26;
const NUM_QUEUES: usize = 34;
const MAX_DISCARD_SECTORS: usize = 36;
const MAX_DISCARD_SEG: usize = 40;
const DISCARD_SECTOR_ALIGNMENT: usize = 44;
const MAX_WRITE_ZEROES_SECTORS: usize = 48;
const MAX_WRITE_ZEROES_SEG: usize = 52;
const WRITE_ZEROES_MAY_UNMAP: usize = 56;

/// The most bytes of one buffer: more than Linux puts into a request as a whole.
const SEGMENT_MAX: u32 = 4 << 20;
/// Sectors of a page of the host's page cache, as a power of 2. Less than a page is read before it is written.
const PAGE_EXP: u8 = 3;

/// The configuration space of a disk of so many sectors and queues, with blocks of so many bytes: a power of 2, up to a page.
pub fn space(sectors: u64, queues: u16, block: u64) -> Vec<u8> {
    let mut space = vec![0; SIZE];
    let page_exp = PAGE_EXP - (block / SECTOR).ilog2() as u8;
    let mut put = |offset: usize, bytes: &[u8]| space[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(CAPACITY, &sectors.to_le_bytes());
    put(SIZE_MAX, &SEGMENT_MAX.to_le_bytes());
    // A chain also has the request's header and its status.
    put(SEG_MAX, &(u32::from(QUEUE_SIZE) - 2).to_le_bytes());
    put(BLK_SIZE, &(block as u32).to_le_bytes());
    put(PHYSICAL_BLOCK_EXP, &[page_exp]);
    put(MIN_IO_SIZE, &(1_u16 << page_exp).to_le_bytes());
    put(NUM_QUEUES, &queues.to_le_bytes());
    put(MAX_DISCARD_SECTORS, &DISCARD_SECTORS.to_le_bytes());
    put(MAX_DISCARD_SEG, &DISCARD_SEGMENTS.to_le_bytes());
    put(DISCARD_SECTOR_ALIGNMENT, &(1_u32 << PAGE_EXP).to_le_bytes());
    put(MAX_WRITE_ZEROES_SECTORS, &ZERO_SECTORS.to_le_bytes());
    put(MAX_WRITE_ZEROES_SEG, &1_u32.to_le_bytes());
    put(WRITE_ZEROES_MAY_UNMAP, &[1]);
    space
}
