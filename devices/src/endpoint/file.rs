//! Files, pipes and terminals that others may share with us, so that their flags are not ours to change.

use std::fs::{File, TryLockError};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open};
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::Mode;

use super::{in_foreground, readiness};
use crate::diagnostics;

/// What is written at once, in bytes, where only `poll` tells that there is room: a pipe that has room has this much, and
/// a terminal most likely.
const SMALL: usize = 256;

/// Output to an open file.
#[derive(Debug)]
pub(super) struct FileOutput {
    file: File,
    /// Messages of carpel's go there as well.
    is_stderr: bool,
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
        let is_stderr = diagnostics::is_stderr(&file);
        Self { file, is_stderr, unblocked: OnceLock::new() }
    }

    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.noted(bytes, (&self.file).write(bytes))
    }

    /// Notes how far a write came, for messages to begin at a line's start.
    fn noted(&self, bytes: &[u8], result: io::Result<usize>) -> io::Result<usize> {
        if let (true, Ok(count)) = (self.is_stderr, &result) {
            diagnostics::note_output(&bytes[..*count]);
        }
        result
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.unblocked.get_or_init(|| Unblocked::find(&self.file)) {
            Unblocked::Plainly => self.write(bytes),
            Unblocked::Reopened(file) => {
                let mut file = file;
                self.noted(bytes, file.write(bytes))
            }
            Unblocked::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                self.noted(bytes, send(self.file.as_raw_fd(), bytes, flags).map_err(io::Error::from))
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
#[derive(Debug)]
pub(super) struct Stdin {
    terminal: bool,
    ended: bool,
}

impl Stdin {
    pub(super) fn new() -> Self {
        Self { terminal: io::stdin().is_terminal(), ended: false }
    }

    pub(super) fn read(&mut self, bytes: &mut [u8]) -> usize {
        if self.terminal && !in_foreground(io::stdin()) {
            return 0;
        }
        // A regular file is always ready.
        while !self.ended && !readiness(io::stdin().as_fd(), PollFlags::POLLIN).is_empty() {
            match nix::unistd::read(io::stdin(), bytes) {
                // A terminal has no end: its foreground was just lost, or it is gone and tells of nothing more.
                Ok(0) | Err(nix::Error::EIO) if self.terminal => break,
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
