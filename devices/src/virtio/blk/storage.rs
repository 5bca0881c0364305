//! What a disk's bytes are kept in.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::VolatileSlice;

use super::request::{ID_BYTES, SECTOR};

/// So many I/O errors of a disk are told to the user, for a guest can cause as many as it likes.
const TOLD_ERRORS: u32 = 3;

/// The bytes of a disk, for many threads at once. Callers stay below [`Self::size`].
pub trait Storage: Send + Sync {
    /// Size in bytes; it does not change.
    fn size(&self) -> u64;

    /// Fills the slices with the bytes from `offset` on.
    fn read(&self, into: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;

    /// Overwrites the bytes from `offset` on with those of the slices.
    fn write(&self, from: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;

    /// Returns when all that was written before will outlive the host's power.
    fn flush(&self) -> io::Result<()>;

    /// Gives the range back to the host where that is possible; what it holds afterwards is not said.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes the range zeros, of which the host need not keep any if `unmap` says so.
    fn zero(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()>;
}

/// A storage as the guest's disk.
pub struct Disk {
    /// The image as the user named it.
    name: String,
    pub storage: Arc<dyn Storage>,
    /// Capacity in sectors.
    pub sectors: u64,
    /// Size of a logical block in bytes: requests are for whole ones.
    pub block: u64,
    pub read_only: bool,
    /// Serial number.
    pub id: [u8; ID_BYTES],
    errors: AtomicU32,
}

impl Disk {
    /// A disk of the storage's whole sectors, which are its blocks.
    pub fn new(name: String, storage: Arc<dyn Storage>, read_only: bool, id: [u8; ID_BYTES]) -> Self {
        let size = storage.size();
        if !size.is_multiple_of(SECTOR) {
            log::warn!(
                "The guest does not see the last {} bytes of {name}: a disk has sectors of {SECTOR}",
                size % SECTOR
            );
        }
        Self { name, sectors: size / SECTOR, block: SECTOR, storage, read_only, id, errors: AtomicU32::new(0) }
    }

    /// The same disk with blocks of this size in bytes, a multiple of a sector's that the storage's size is a multiple of.
    pub fn with_blocks(self, block: u64) -> Self {
        Self { block, ..self }
    }

    /// Tells the user of the guest's I/O error, as long as there were few.
    pub fn report(&self, attempt: &str, error: &io::Error) {
        let level = if self.errors.fetch_add(1, Ordering::Relaxed) < TOLD_ERRORS {
            log::Level::Warn
        } else {
            log::Level::Debug
        };
        log::log!(level, "The guest gets an I/O error from its disk {}: cannot {attempt}: {error}", self.name);
    }
}
