//! A pseudo-terminal.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::ttyname;

use super::readiness;

/// Our end of a terminal; the other end is for the user to open.
#[derive(Debug)]
pub(super) struct Pty {
    master: File,
    name: PathBuf,
}

impl Pty {
    pub(super) fn open() -> io::Result<Self> {
        let pty = openpty(None, None)?;
        let mut settings = tcgetattr(&pty.slave)?;
        // The guest does what a terminal would: line by line is not for us to say.
        cfmakeraw(&mut settings);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &settings)?;
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let name = ttyname(&pty.slave)?;
        Ok(Self { master: pty.master.into(), name })
        // The slave is closed here, so that the terminal counts as not open until somebody opens it.
    }

    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        if readiness(self.as_fd(), PollFlags::POLLOUT).contains(PollFlags::POLLHUP) {
            return Ok(bytes.len());
        }
        (&self.master).write(bytes)
    }

    pub(super) fn read(&self, bytes: &mut [u8]) -> usize {
        // An error is that nothing is there, or that nobody has the other end open.
        (&self.master).read(bytes).unwrap_or(0)
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}
