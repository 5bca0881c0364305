//! A raw image: byte for byte what the guest's disk holds.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use thiserror::Error;
use vm_memory::VolatileSlice;

use super::block_device;
use super::lock;
use super::request::SECTOR;
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
    /// The host's page cache cannot be passed by.
    #[error("Cannot open {path} around the page cache, as `direct` says")]
    Direct {
        /// As the user named it.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// Its size does not suit the block size.
    #[error("{path} has {size} bytes, no multiple of `block-size={block}` (`block-size=512` takes it)")]
    Blocks {
        /// As the user named it.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// Size of a block in bytes.
        block: u64,
    },
    /// There is no sector in it.
    #[error("{0} has {1} bytes: a disk has at least one sector of 512")]
    TooSmall(String, u64),
}

/// What reads and writes around the host's page cache must be aligned to, in bytes, in the file as in memory: no disk has larger
/// blocks. Others go through the cache.
const DIRECT_ALIGN: u64 = 4096;
/// How qcow2 images begin (QEMU, docs/interop/qcow2.txt).
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// So many zeros are written at once.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An open image.
pub struct RawImage {
    file: File,
    /// The same file around the host's page cache.
    direct: Option<File>,
    size: u64,
}

impl RawImage {
    /// Opens an image; `direct` passes by the host's page cache where it can.
    pub fn open(path: &Path, read_only: bool, direct: bool) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let name = || path.display().to_string();
        let mut file = open(path, read_only)?;
        // A block device has no size among its metadata.
        let size = file.seek(SeekFrom::End(0)).map_err(|source| ImageError::Open { path: name(), source })?;
        if size < SECTOR {
            return Err(ImageError::TooSmall(name(), size).into());
        }
        let mut magic = [0; QCOW2_MAGIC.len()];
        if file.read_exact_at(&mut magic, 0).is_ok() && magic == QCOW2_MAGIC {
            log::warn!(
                "{} begins as a qcow2 image does, and is taken as raw: `format=qcow2` would say otherwise",
                name()
            );
        }
        let direct = direct
            .then(|| File::options().read(true).write(!read_only).custom_flags(OFlag::O_DIRECT.bits()).open(path));
        let direct = direct.transpose().map_err(|source| ImageError::Direct { path: name(), source })?;
        Ok(Self { file, direct, size })
    }

    /// A new one full of zeros, which ends with the process.
    pub fn temporary(size: u64) -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        file.set_len(size)?;
        Ok(Self { file, direct: None, size })
    }

    /// The file for a transfer between these slices and its bytes from `offset` on.
    pub fn file(&self, slices: &[VolatileSlice<'_>], offset: u64) -> &File {
        let aligned = |slice: &VolatileSlice<'_>| {
            let (start, length) = (slice.ptr_guard().as_ptr() as u64, slice.len() as u64);
            start.is_multiple_of(DIRECT_ALIGN) && length.is_multiple_of(DIRECT_ALIGN)
        };
        match &self.direct {
            Some(direct) if offset.is_multiple_of(DIRECT_ALIGN) && slices.iter().all(aligned) => direct,
            _ => &self.file,
        }
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
        let mode = mode | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let range = |bytes| i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
        Ok(fallocate(&self.file, mode, range(offset)?, range(length)?)?)
    }

    fn write_zeros(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let piece = length.min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..piece as usize], offset)?;
            (offset, length) = (offset + piece, length - piece);
        }
        Ok(())
    }
}

/// Opens a file or block device and keeps others from writing to it as long as it is open: from using it at all if it is writable.
pub fn open(path: &Path, read_only: bool) -> Result<File, Box<dyn Error + Send + Sync>> {
    let name = || path.display().to_string();
    let open_error = |source| ImageError::Open { path: name(), source };
    // Before it is opened: that would wait for a pipe's other end.
    let kind = fs::metadata(path).map_err(open_error)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(ImageError::Kind(name()).into());
    }
    let file = File::options().read(true).write(!read_only).open(path).map_err(|source| {
        let denied = matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
        if denied && !read_only { ImageError::OpenWritable { path: name(), source } } else { open_error(source) }
    })?;
    if !read_only && kind.is_block_device() && block_device::is_read_only(&file) {
        return Err(ImageError::OpenWritable { path: name(), source: io::ErrorKind::ReadOnlyFilesystem.into() }.into());
    }
    lock::lock(&file, path, read_only)?;
    Ok(file)
}

impl Storage for RawImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, into: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        transfer::read(self.file(into, offset), into, offset)
    }

    fn write(&self, from: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        transfer::write(self.file(from, offset), from, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, length)
    }

    fn zero(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        // A hole reads as zeros as well.
        let punched = unmap && self.discard(offset, length).is_ok();
        if punched || self.allocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, length).is_ok() {
            return Ok(());
        }
        self.write_zeros(offset, length)
    }
}
