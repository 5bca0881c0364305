//! A file named on the command line, opened once and read by position; or what was unpacked from one.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError, GuestMemoryMmap};

/// An opened regular file, or bytes in memory, and the size. Clones share them.
#[derive(Clone, Debug)]
pub struct Source {
    contents: Contents,
    size: u64,
}

#[derive(Clone, Debug)]
enum Contents {
    File(Arc<File>),
    Bytes(Arc<Vec<u8>>),
}

/// Why a file cannot serve.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It cannot be opened or examined.
    #[error("Cannot open it")]
    Open(#[from] io::Error),
    /// It is a directory, a device, a pipe or a socket.
    #[error("It is {0}, not a regular file")]
    NotRegular(&'static str),
    /// It has no contents.
    #[error("It is empty")]
    Empty,
}

/// Why bytes of a file did not get into guest memory.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Positioning failed.
    #[error("Cannot seek")]
    Seek(#[from] io::Error),
    /// The file changed since it was probed, or its address is no memory.
    #[error("Cannot read {size} bytes to guest physical address {address:#x}")]
    Copy {
        /// Bytes.
        size: u64,
        /// Guest physical address.
        address: u64,
        /// The cause.
        source: GuestMemoryError,
    },
}

impl Source {
    /// Opens a file for reading. Only a regular file will do: its size is needed, and waiting for a pipe is not wanted.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        // Without O_NONBLOCK, opening a FIFO would wait for a writer.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        Self::new(file)
    }

    fn new(file: File) -> Result<Self, OpenError> {
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        match metadata.len() {
            _ if kind.is_dir() => Err(OpenError::NotRegular("a directory")),
            _ if kind.is_fifo() => Err(OpenError::NotRegular("a pipe")),
            _ if kind.is_socket() => Err(OpenError::NotRegular("a socket")),
            _ if !kind.is_file() => Err(OpenError::NotRegular("a device")),
            0 => Err(OpenError::Empty),
            size => Ok(Self { contents: Contents::File(Arc::new(file)), size }),
        }
    }

    /// A source of these bytes, which are not empty.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len() as u64, contents: Contents::Bytes(Arc::new(bytes)) }
    }

    /// Size in bytes, as it was when the file was opened; not 0.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Reads `size` bytes from `offset` bytes into the file straight to a guest physical address.
    pub fn load(&self, memory: &GuestMemoryMmap, offset: u64, size: u64, address: u64) -> Result<(), LoadError> {
        let (length, target) = (size as usize, GuestAddress(address));
        let copied = match &self.contents {
            Contents::File(file) => {
                let mut file = file.as_ref();
                file.seek(SeekFrom::Start(offset))?;
                memory.read_exact_volatile_from(target, &mut file, length)
            }
            Contents::Bytes(bytes) => {
                let mut bytes = bytes.get(offset as usize..).unwrap_or_default();
                memory.read_exact_volatile_from(target, &mut bytes, length)
            }
        };
        copied.map_err(|source| LoadError::Copy { size, address, source })
    }

    /// Fills `buffer` from `offset` bytes into the file.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match &self.contents {
            Contents::File(file) => file.read_exact_at(buffer, offset),
            Contents::Bytes(bytes) => bytes.get(offset as usize..).unwrap_or_default().read_exact(buffer),
        }
    }

    /// A reader from the start on.
    pub fn reader(&self) -> Reader<'_> {
        Reader { source: self, at: 0 }
    }

    /// The first `N` bytes, with zeros after the end of a shorter file.
    pub fn prefix<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(0, &mut bytes[..self.size.min(N as u64) as usize])?;
        Ok(bytes)
    }
}

/// Reads a source from its start to its end.
pub struct Reader<'a> {
    source: &'a Source,
    at: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.source.size.saturating_sub(self.at).min(buffer.len() as u64);
        self.source.read(self.at, &mut buffer[..size as usize])?;
        self.at += size;
        Ok(size as usize)
    }
}

#[cfg(test)]
impl Source {
    /// A source of these bytes, in a file without a name.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Self::new(file).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| Source::open(path).unwrap_err().to_string();
        assert_eq!(message(dir.path()), "It is a directory, not a regular file");
        assert_eq!(message(Path::new("/dev/zero")), "It is a device, not a regular file");
        assert_eq!(message(&dir.path().join("missing")), "Cannot open it");
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        assert_eq!(message(&empty), "It is empty");
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(message(&fifo), "It is a pipe, not a regular file");
    }
}
