//! A file named on the command line, opened once and read by position; what a pipe held; or what was unpacked from either.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError, GuestMemoryMmap, ReadVolatile};

/// An opened regular file, or bytes in memory, or a part of either. Clones share them.
#[derive(Clone, Debug)]
pub struct Source {
    contents: Contents,
    /// Where it starts in the contents, and its size, both in bytes.
    start: u64,
    size: u64,
}

/// How a kind of file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipes {
    /// A pipe is read to its end, up to this many bytes.
    UpTo(u64),
    /// A pipe is refused.
    Refused,
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
    /// It is a directory, a device, a socket, or a pipe where none will do.
    #[error("It is {0}, not a regular file")]
    NotRegular(&'static str),
    /// A pipe has more in it than a guest has room for.
    #[error("It is a pipe that holds more than the guest's memory of {limit} bytes: give the guest more with --mem")]
    TooLong {
        /// The guest's memory in bytes.
        limit: u64,
    },
    /// A pipe could not be read.
    #[error("Cannot read it")]
    Read(#[source] io::Error),
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
    /// Opens a file for reading: a regular file, for its size is needed, or a pipe, which is read to its end. That may take as long as its
    /// writer likes; signals end the process meanwhile.
    pub fn open(path: &Path, pipes: Pipes) -> Result<Self, OpenError> {
        // Without O_NONBLOCK, opening a device could wait for ever; what must be waited for is waited for below.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        match pipes {
            Pipes::UpTo(limit) if file.metadata()?.file_type().is_fifo() => Self::drain(&file, limit),
            _ => Self::new(file),
        }
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
            size => Ok(Self { contents: Contents::File(Arc::new(file)), start: 0, size }),
        }
    }

    /// Reads a pipe, opened without waiting for its writer, until all writers are gone.
    fn drain(pipe: &File, limit: u64) -> Result<Self, OpenError> {
        let mut bytes = Vec::new();
        let mut rest = pipe.take(limit.saturating_add(1));
        loop {
            // Until a first writer has come, a named pipe reads as if it had ended, but polling it waits.
            let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(OpenError::Read(error.into())),
            }
            match rest.read_to_end(&mut bytes) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(OpenError::Read(error)),
            }
        }
        match bytes.len() as u64 {
            0 => Err(OpenError::Empty),
            size if size > limit => Err(OpenError::TooLong { limit }),
            _ => Ok(Self::from_vec(bytes)),
        }
    }

    /// A source of these bytes, which are not empty.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self { size: bytes.len() as u64, start: 0, contents: Contents::Bytes(Arc::new(bytes)) }
    }

    /// `size` bytes of this from `offset` bytes on, which it must hold.
    pub fn part(&self, offset: u64, size: u64) -> Option<Self> {
        let holds = offset.checked_add(size).is_some_and(|end| end <= self.size);
        holds.then(|| Self { contents: self.contents.clone(), start: self.start + offset, size })
    }

    /// Size in bytes, as it was when the file was opened; not 0.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Reads `size` bytes from `offset` bytes into the file straight to a guest physical address.
    pub fn load(&self, memory: &GuestMemoryMmap, offset: u64, size: u64, address: u64) -> Result<(), LoadError> {
        let offset = self.start + offset;
        let copied = match &self.contents {
            Contents::File(file) => {
                let mut file = file.as_ref();
                file.seek(SeekFrom::Start(offset))?;
                copy(memory, &mut file, size, address)
            }
            Contents::Bytes(bytes) => {
                let mut bytes = bytes.get(offset as usize..).unwrap_or_default();
                copy(memory, &mut bytes, size, address)
            }
        };
        copied.map_err(|source| LoadError::Copy { size, address, source })
    }

    /// Fills `buffer` from `offset` bytes into the file.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let offset = self.start + offset;
        match &self.contents {
            Contents::File(file) => file.read_exact_at(buffer, offset),
            Contents::Bytes(bytes) => bytes.get(offset as usize..).unwrap_or_default().read_exact(buffer),
        }
    }

    /// A reader from the start on.
    pub fn reader(&self) -> Reader<'_> {
        self.reader_at(0)
    }

    /// A reader from this offset in bytes on.
    pub fn reader_at(&self, at: u64) -> Reader<'_> {
        Reader { source: self, at }
    }

    /// The first `N` bytes, with zeros after the end of a shorter file.
    pub fn prefix<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(0, &mut bytes[..self.size.min(N as u64) as usize])?;
        Ok(bytes)
    }
}

/// Copies `size` bytes to guest memory, in as many reads as it takes: one moves 2 GiB less a page at most, and fewer where a file system likes.
fn copy(
    memory: &GuestMemoryMmap,
    reader: &mut impl ReadVolatile,
    size: u64,
    address: u64,
) -> Result<(), GuestMemoryError> {
    let mut done = 0;
    while done < size {
        let (target, left) = (GuestAddress(address.saturating_add(done)), (size - done) as usize);
        match memory.read_volatile_from(target, reader, left) {
            Ok(0) => return Err(GuestMemoryError::PartialBuffer { expected: size as usize, completed: done as usize }),
            Ok(count) => done += count as u64,
            Err(GuestMemoryError::IOError(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads a source to its end.
pub struct Reader<'a> {
    source: &'a Source,
    at: u64,
}

impl Reader<'_> {
    /// How many bytes into the source the next one is.
    pub const fn position(&self) -> u64 {
        self.at
    }
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
    use std::io::Write as _;
    use std::thread;
    use std::time::Duration;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use vm_memory::bitmap::BitmapSlice;
    use vm_memory::{VolatileMemoryError, VolatileSlice};

    #[test]
    fn what_is_no_regular_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| Source::open(path, Pipes::Refused).unwrap_err().to_string();
        assert_eq!(message(dir.path()), "It is a directory, not a regular file");
        assert_eq!(message(Path::new("/dev/zero")), "It is a device, not a regular file");
        assert_eq!(message(&dir.path().join("missing")), "Cannot open it");
        let empty = dir.path().join("empty");
        std::fs::write(&empty, "").unwrap();
        assert_eq!(message(&empty), "It is empty");
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert_eq!(message(&fifo), "It is a pipe, not a regular file");
    }

    #[test]
    fn a_pipe_is_read_when_its_writer_comes_and_until_it_goes() {
        const SIZE: usize = 200_000;
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for limit in [SIZE as u64, SIZE as u64 - 1] {
            let path = fifo.clone();
            let writer = thread::spawn(move || {
                thread::sleep(Duration::from_millis(50));
                let mut pipe = File::options().write(true).open(path).unwrap();
                pipe.write_all(&[7; 10]).unwrap();
                thread::sleep(Duration::from_millis(50));
                // The reader may have had enough.
                let _ = pipe.write_all(&vec![7; SIZE - 10]);
            });
            match Source::open(&fifo, Pipes::UpTo(limit)) {
                Ok(source) => assert_eq!((source.size(), limit), (SIZE as u64, SIZE as u64)),
                Err(error) => assert!(error.to_string().contains("more than the guest's memory of 199999 bytes")),
            }
            writer.join().unwrap();
        }
    }

    #[test]
    fn a_part_starts_at_its_own_first_byte() {
        let source = Source::from_bytes(b"abcdefgh");
        let part = source.part(2, 5).unwrap().part(1, 3).unwrap();
        assert_eq!((part.size(), part.prefix::<4>().unwrap()), (3, *b"def\0"));
        assert!(part.part(1, 3).is_none() && part.part(u64::MAX, 2).is_none());
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap();
        part.load(&memory, 1, 2, 8).unwrap();
        assert_eq!(memory.read_obj::<[u8; 3]>(GuestAddress(8)).unwrap(), *b"ef\0");
    }

    /// Hands out a few bytes at a time, as read(2) may.
    struct Stingy<'a>(&'a [u8]);

    impl ReadVolatile for Stingy<'_> {
        fn read_volatile<B: BitmapSlice>(&mut self, buf: &mut VolatileSlice<B>) -> Result<usize, VolatileMemoryError> {
            let count = self.0.len().min(buf.len()).min(1000);
            buf.copy_from(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn a_file_is_loaded_whole_however_little_one_read_moves() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let bytes: Vec<u8> = (0..0x8000_u32).map(|i| (i * i / 16) as u8).collect();
        copy(&memory, &mut Stingy(&bytes), bytes.len() as u64, 0x800).unwrap();
        let mut read = vec![0; bytes.len()];
        memory.read_slice(&mut read, GuestAddress(0x800)).unwrap();
        assert!(read == bytes);
        assert!(copy(&memory, &mut Stingy(&bytes), bytes.len() as u64 + 1, 0).is_err());
        assert!(copy(&memory, &mut Stingy(&bytes), bytes.len() as u64, 0xF000).is_err());
    }
}
