//! Files, pipes and terminals that others may share with us, so that their flags are not ours to change.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open};
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::Mode;

use super::readiness;

/// What is written at once, in bytes, where only `poll` tells that there is room: a pipe that has room has this much, and
/// a terminal most likely.
const SMALL: usize = 256;

/// Output to an open file.
#[derive(Debug)]
pub(super) struct FileOutput {
    file: File,
    /// Found out when it is first needed: many guests never need it.
    unblocked: OnceLock<Unblocked>,
}

/// How to write without waiting.
#[derive(Debug)]
enum Unblocked {
    /// As always: a regular file.
    Plainly,
    /// By a description of our own of the same file, which is non-blocking.
    Reopened(File),
    /// By `send(2)`.
    Socket,
    /// When `poll` says so.
    Polled,
}

impl FileOutput {
    pub(super) fn new(file: File) -> Self {
        Self { file, unblocked: OnceLock::new() }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&self.file).write(bytes)
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.unblocked.get_or_init(|| Unblocked::find(&self.file)) {
            Unblocked::Plainly => self.write(bytes),
            Unblocked::Reopened(file) => {
                let mut file = file;
                file.write(bytes)
            }
            Unblocked::Socket => {
                Ok(send(self.file.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
            }
            Unblocked::Polled if readiness(self.as_fd(), PollFlags::POLLOUT).is_empty() => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Unblocked::Polled => self.write(&bytes[..bytes.len().min(SMALL)]),
        }
    }
}

impl AsFd for FileOutput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Unblocked {
    fn find(file: &File) -> Self {
        let kind = file.metadata().map(|metadata| metadata.file_type());
        match kind {
            Ok(kind) if kind.is_file() => Self::Plainly,
            Ok(kind) if kind.is_socket() => Self::Socket,
            // Not possible without /proc, nor where the file is another user's.
            _ => {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
                open(path.as_str(), flags, Mode::empty()).map_or(Self::Polled, |file| Self::Reopened(file.into()))
            }
        }
    }
}

/// Standard input, of which no more is taken than is asked for: the rest is for whoever shares it.
#[derive(Debug, Default)]
pub(super) struct Stdin {
    ended: bool,
}

impl Stdin {
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> usize {
        // A regular file is always ready.
        while !self.ended && !readiness(io::stdin().as_fd(), PollFlags::POLLIN).is_empty() {
            match nix::unistd::read(io::stdin(), bytes) {
                Ok(0) => self.ended = true,
                Ok(count) => return count,
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => break,
                Err(error) => {
                    log::debug!("Cannot read standard input: {error}");
                    self.ended = true;
                }
            }
        }
        0
    }
}

/// Keeps a regular file from other disks, consoles and reports, of this guest or another, until it is closed: what one writes
/// would destroy what is the other's. The lock is flock's, as that of disks.
pub fn claim(file: &File) -> io::Result<()> {
    match file.metadata()?.is_file().then(|| file.try_lock()) {
        Some(Err(TryLockError::WouldBlock)) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "It is in use by another device, guest or process"))
        }
        // Some file systems know no locks.
        _ => Ok(()),
    }
}

/// Makes a file empty; pipes and devices have no length.
pub(super) fn empty(file: &File) -> io::Result<()> {
    if file.metadata()?.is_file() { file.set_len(0) } else { Ok(()) }
}
