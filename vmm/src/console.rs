//! The output side of the guest's console.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use carpel_devices::console::{ConsoleOutput, Consoles};
use carpel_devices::endpoint::Output;

use crate::outcome::{Outcome, Shutdown};
use crate::watch::Judge;

/// How long to wait for a full output before asking again whether the run has ended, in milliseconds.
const FULL_WAIT: u16 = 100;
/// So long may judging hold up the main thread at once: signals and timers wait for it.
const TURN: Duration = Duration::from_millis(1);
/// The least that is judged in a turn, in bytes, and the most.
const TURN_BYTES: (usize, usize) = (16, 64 << 10);
const SIGPIPE: u8 = 13;

/// Where the guest's console goes, and who judges it. Its ports print to the same place, but lines are those of one port.
#[derive(Clone)]
pub struct Console {
    output: Output,
    judge: Arc<Judge>,
    shutdown: Arc<Shutdown>,
}

/// A port of a console. A serial port writes in a vCPU's thread and may block it, which holds the guest back as a slow terminal
/// would; the end of the run ends the wait. A virtio port is held back by what it is offered for.
pub struct ConsolePort {
    output: Output,
    judge: Arc<Judge>,
    shutdown: Arc<Shutdown>,
    /// Its number with the judge.
    number: usize,
    /// Whether the run ends where nobody reads it any more, as a program does that writes to a closed pipe.
    ends_run: bool,
    failed: bool,
    /// Whether it was offered more than it took.
    behind: bool,
    /// How many bytes are judged in a turn.
    turn: usize,
}

impl Console {
    /// A console that is judged and goes to `output`.
    pub fn new(output: Output, judge: Arc<Judge>, shutdown: Arc<Shutdown>) -> Self {
        Self { output, judge, shutdown }
    }

    /// A port of it by the name that Linux has for it.
    pub fn port(&self, name: &str) -> ConsolePort {
        self.make_port(name, self.output.clone(), true)
    }

    fn make_port(&self, name: &str, output: Output, ends_run: bool) -> ConsolePort {
        ConsolePort {
            output,
            judge: Arc::clone(&self.judge),
            shutdown: Arc::clone(&self.shutdown),
            number: self.judge.add(name),
            ends_run,
            failed: false,
            behind: false,
            turn: TURN_BYTES.1,
        }
    }
}

impl Consoles for Console {
    fn console(&self) -> Box<dyn ConsoleOutput> {
        Box::new(self.port("hvc0"))
    }

    fn further(&self, name: &str, output: Output) -> Box<dyn ConsoleOutput> {
        Box::new(self.make_port(name, output, false))
    }
}

impl ConsolePort {
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

    /// Prints as many of the bytes as can be at once; what cannot be printed at all is lost.
    fn try_put(&mut self, bytes: &[u8]) -> usize {
        if bytes.is_empty() || self.judge.is_output_given_up() {
            return bytes.len();
        }
        match self.output.try_write(bytes) {
            Ok(count) => count,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => 0,
                io::ErrorKind::BrokenPipe if self.ends_run => {
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
        }
    }
}

impl Write for ConsolePort {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.put(bytes);
        // A match may end the run, and what matched should have been seen.
        self.judge.feed(self.number, bytes);
        result.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ConsoleOutput for ConsolePort {
    fn offer(&mut self, bytes: &[u8]) -> usize {
        let taken = self.try_put(&bytes[..bytes.len().min(self.turn)]);
        let started = Instant::now();
        self.judge.feed(self.number, &bytes[..taken]);
        let (least, most) = TURN_BYTES;
        self.turn =
            if started.elapsed() > TURN { (self.turn.min(taken) / 2).max(least) } else { (self.turn * 2).min(most) };
        let behind = taken < bytes.len();
        self.judge.note_behind(std::mem::replace(&mut self.behind, behind), behind);
        taken
    }
}
