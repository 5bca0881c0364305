//! The output side of the guest's console.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use carpel_devices::console::ConsoleOutput;
use carpel_devices::endpoint::Output;

use crate::outcome::{Outcome, Shutdown};
use crate::watch::Watch;

/// How long to wait for a full output before asking again whether the run has ended, in milliseconds.
const FULL_WAIT: u16 = 100;
const SIGPIPE: u8 = 13;

/// Where a console's bytes go. Each port of the guest's has a clone: they print to the same place, but lines are those of one
/// port. A serial port writes in a vCPU's thread and may block it, which holds the guest back as a slow terminal would; the
/// end of the run ends the wait. A virtio port is held back by what it is offered for.
#[derive(Clone)]
pub struct Console {
    output: Output,
    watch: Watch,
    shutdown: Arc<Shutdown>,
    printed: Arc<AtomicU64>,
    failed: bool,
}

impl Console {
    /// A console that is watched and goes to `output`.
    pub fn new(output: Output, watch: Watch, shutdown: Arc<Shutdown>) -> Self {
        Self { output, watch, shutdown, printed: Arc::default(), failed: false }
    }

    /// How many bytes the guest has printed.
    pub fn printed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.printed)
    }

    fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() && !self.shutdown.ended() {
            match self.output.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Whoever shares our terminal or pipe may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.output.wait(FULL_WAIT),
                // Said by the outcome, not as lost output.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.shutdown.end(Outcome::Signal(SIGPIPE)),
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

impl ConsoleOutput for Console {
    fn offer(&mut self, bytes: &[u8]) -> usize {
        let taken = match self.output.try_write(bytes) {
            Ok(count) => count,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => 0,
                io::ErrorKind::BrokenPipe => {
                    self.shutdown.end(Outcome::Signal(SIGPIPE));
                    bytes.len()
                }
                _ => {
                    // The guest can cause one with each byte.
                    if !std::mem::replace(&mut self.failed, true) {
                        log::warn!("Console output is lost: {error}");
                    }
                    bytes.len()
                }
            },
        };
        self.printed.fetch_add(taken as u64, Ordering::Relaxed);
        self.watch.feed(&bytes[..taken]);
        taken
    }
}
