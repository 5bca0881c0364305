//! Keeping two guests from one image: each would write what the other does not expect.

use std::fs::{File, TryLockError};
use std::path::Path;

use thiserror::Error;

/// Somebody else has the image.
#[derive(Debug, Error)]
#[error("{path} is in use by another guest or process{remedy}")]
pub struct InUse {
    path: String,
    remedy: &'static str,
}

/// Locks an image until the file is closed: several may read it, but who writes is alone. The lock is flock's, which goes with the open
/// file, so that it also stands between two disks of one guest, and ends with the process however that ends.
pub fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), InUse> {
    let result = if read_only { file.try_lock_shared() } else { file.try_lock() };
    let path = path.display().to_string();
    match result {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) if read_only => Err(InUse { path, remedy: " that writes to it" }),
        Err(TryLockError::WouldBlock) => Err(InUse { path, remedy: " (only `ro` can be shared)" }),
        Err(TryLockError::Error(error)) => {
            log::warn!("Nothing keeps others from using {path}, which cannot be locked: {error}");
            Ok(())
        }
    }
}
