//! A raw image: byte for byte what the guest's disk holds.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use thiserror::Error;
use vm_memory::VolatileSlice;

use super::lock;
use super::storage::Storage;
use super::transfer;

/// Why an image cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// It cannot be opened.
    #[error("Cannot open {path}")]
    Open {
        /// As the user named it.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// It cannot be opened for writing.
    #[error("Cannot open {path} for writing (`ro` takes it read-only)")]
    OpenWritable {
        /// As the user named it.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A directory, a pipe or the like.
    #[error("{0} is neither a file nor a block device")]
    Kind(String),
    /// There is nothing in it.
    #[error("{0} is empty: a disk has at least one sector of 512 bytes")]
    Empty(String),
}

/// An open image.
pub struct RawImage {
    file: File,
    size: u64,
}

impl RawImage {
    /// Opens an image and keeps others from writing to it as long as it is open: from using it at all if it is writable.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let name = || path.display().to_string();
        let open_error = |source| ImageError::Open { path: name(), source };
        // Before it is opened: that would wait for a pipe's other end.
        let kind = fs::metadata(path).map_err(open_error)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ImageError::Kind(name()).into());
        }
        let mut file = File::options().read(true).write(!read_only).open(path).map_err(|source| {
            let denied = matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
            let path = name();
            if denied && !read_only {
                ImageError::OpenWritable { path, source }
            } else {
                ImageError::Open { path, source }
            }
        })?;
        lock::lock(&file, path, read_only)?;
        // A block device has no size among its metadata.
        let size = file.seek(SeekFrom::End(0)).map_err(open_error)?;
        if size < super::request::SECTOR {
            return Err(ImageError::Empty(name()).into());
        }
        Ok(Self { file, size })
    }
}

impl Storage for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, into: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        transfer::read(&self.file, into, offset)
    }

    fn write(&self, from: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        transfer::write(&self.file, from, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
