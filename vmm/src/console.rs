//! The output side of the guest's console.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::outcome::{Ending, Outcome};
use crate::watch::Watch;

/// How long to wait for a full output before asking again whether the run has ended, in milliseconds.
const FULL_WAIT: u16 = 100;
const SIGPIPE: u8 = 13;

/// Where a serial port's bytes go. It is written to by a vCPU's thread and may block it, which holds the guest back as
/// a slow terminal would; the end of the run ends the wait.
pub struct Console {
    output: Option<File>,
    watch: Watch,
    ending: Arc<Ending>,
    printed: Arc<AtomicU64>,
}

impl Console {
    /// A console that is watched and goes to `output`, or nowhere.
    pub fn new(output: Option<File>, watch: Watch, ending: Arc<Ending>) -> Self {
        Self { output, watch, ending, printed: Arc::default() }
    }

    /// How many bytes the guest has printed.
    pub fn printed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.printed)
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(mut output) = self.output.as_ref() else { return Ok(()) };
        let mut rest = bytes;
        while !rest.is_empty() && !self.ending.ended() {
            match output.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares our terminal or pipe may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(FULL_WAIT));
                }
                // Said by the outcome, not as lost output.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.ending.end(Outcome::Signal(SIGPIPE)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.printed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let result = self.put(bytes);
        // A match may end the run, and what matched should have been seen.
        self.watch.feed(bytes);
        result.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
