//! Whether a qcow2 image's file is as long as its tables say: one that was cut off would read as zeros where it was.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use thiserror::Error;

/// Where the header has what is needed here, in bytes (QEMU, docs/interop/qcow2.txt); all of it is big-endian.
const CLUSTER_BITS: u64 = 20;
const SIZE: u64 = 24;
const L1_ENTRIES: u64 = 36;
const L1_ADDRESS: u64 = 40;
const REFCOUNT_ADDRESS: u64 = 48;
const REFCOUNT_CLUSTERS: u64 = 56;
/// The address of a second-level table in an entry of the first.
const L2_ADDRESS: u64 = 0x00FF_FFFF_FFFF_FE00;
/// Bytes of an entry of the tables.
const ENTRY: u64 = 8;
/// QEMU's limit on the first-level table in bytes, for 2 EiB at the usual size of clusters.
const L1_MAX: u64 = 32 << 20;

/// A file that does not hold what it should.
#[derive(Debug, Error)]
pub enum Incomplete {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// A table lies behind its end.
    #[error("It is cut off: its {table} reaches to byte {end}, the file has {length}")]
    Cut {
        /// Which.
        table: &'static str,
        /// Where it ends, saturated.
        end: u64,
        /// Bytes of the file.
        length: u64,
    },
    /// A table that does not fit the size of the disk.
    #[error("Its first-level table of {entries} entries does not fit its size of {size} bytes")]
    Size {
        /// The entries.
        entries: u64,
        /// The disk's size in bytes.
        size: u64,
    },
}

/// Checks an image whose header makes sense otherwise.
pub fn check(mut file: &File) -> Result<(), Incomplete> {
    let length = file.seek(SeekFrom::End(0))?;
    let within = |table, start: u64, bytes: u64| {
        let end = start.saturating_add(bytes);
        if end <= length { Ok(()) } else { Err(Incomplete::Cut { table, end, length }) }
    };
    let cluster = 1_u64.checked_shl(word(file, CLUSTER_BITS)?).unwrap_or(u64::MAX);
    let (entries, size) = (u64::from(word(file, L1_ENTRIES)?), long(file, SIZE)?);
    let refcounts = u64::from(word(file, REFCOUNT_CLUSTERS)?).saturating_mul(cluster);
    within("refcount table", long(file, REFCOUNT_ADDRESS)?, refcounts)?;
    let address = long(file, L1_ADDRESS)?;
    within("first-level table", address, entries * ENTRY)?;
    let covered = (cluster / ENTRY).saturating_mul(cluster).saturating_mul(entries);
    if covered < size || entries * ENTRY > L1_MAX {
        return Err(Incomplete::Size { entries, size });
    }
    let mut table = vec![0; usize::try_from(entries * ENTRY).unwrap_or(0)];
    file.read_exact_at(&mut table, address)?;
    for entry in table.chunks_exact(8) {
        match u64::from_be_bytes(entry.try_into().unwrap_or_default()) & L2_ADDRESS {
            0 => {}
            address => within("second-level table", address, cluster)?,
        }
    }
    Ok(())
}

fn word(file: &File, at: u64) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, at)?;
    Ok(u32::from_be_bytes(bytes))
}

fn long(file: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_be_bytes(bytes))
}
