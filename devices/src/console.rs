//! What serial ports have in common towards the monitor: a console's input and output.

use crate::bus::BusDevice;
use crate::endpoint;
use std::io::{self, Write};
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// So many reads of the status without a write mean that the guest waits for input. A guest that sends reads it once or
/// twice for a byte, as the transmitter is always ready.
pub(crate) const POLLS_WHEN_WAITING: u8 = 16;

/// A serial port that a console is connected to.
pub trait ConsolePort: BusDevice {
    /// Hands the guest received bytes. Returns how many it took: those that its FIFO has room for, none while it does
    /// not listen. After less than all, [`Self::room`] tells when to offer the rest. A vCPU that is blocked in a write to the
    /// output holds the port's lock, so a thread that must not wait offers input under `try_lock`.
    fn input(&mut self, bytes: &[u8]) -> usize;

    /// Becomes readable when the guest, having refused input, listens with an empty FIFO. The reader resets it by
    /// reading its counter.
    fn room(&self) -> Arc<EventFd>;
}

/// Where a console's output goes, for a thread that must not wait.
pub trait ConsoleOutput: Send {
    /// Takes as many of the bytes as it can at once, which may be none. No bytes tell it that there is nothing more to take now.
    fn offer(&mut self, bytes: &[u8]) -> usize;
}

/// Where the ports of a console device print to.
pub trait Consoles: Send {
    /// The guest's console.
    fn console(&self) -> Box<dyn ConsoleOutput>;

    /// Another console of this name, whose other end is `output`.
    fn further(&self, name: &str, output: endpoint::Output) -> Box<dyn ConsoleOutput>;
}

/// When a port takes input: what reaches the FIFO before the guest listens is lost, for drivers empty the receiver when
/// they open a port.
pub(crate) struct Intake {
    /// Reads of the status since the last write.
    polls: u8,
    /// Input was refused, and `room` has not been signalled since.
    refused: bool,
    room: Arc<EventFd>,
}

impl Intake {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { polls: 0, refused: false, room: Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?) })
    }

    pub(crate) fn room(&self) -> Arc<EventFd> {
        Arc::clone(&self.room)
    }

    /// The guest read the status.
    pub(crate) fn status_read(&mut self) {
        self.polls = self.polls.saturating_add(1);
    }

    /// The guest wrote to the port.
    pub(crate) fn written(&mut self) {
        self.polls = 0;
    }

    /// Whether the guest reads the status again and again, as firmware and small kernels do that wait for input.
    pub(crate) const fn is_polled(&self) -> bool {
        self.polls >= POLLS_WHEN_WAITING
    }

    /// The port took some of what it was offered, all or not.
    pub(crate) fn offered(&mut self, all_taken: bool) {
        self.refused = !all_taken;
    }

    /// Whether somebody waits for room.
    pub(crate) const fn is_awaited(&self) -> bool {
        self.refused
    }

    /// The guest listens with an empty FIFO.
    pub(crate) fn has_room(&mut self) {
        self.refused = false;
        // It fails only when its counter is full, and then it is readable already.
        let _ = self.room.write(1);
    }
}

/// Where a port transmits to. It drops what a signal interrupts instead of trying again: a vCPU that is kicked out of a
/// blocked write is to stop.
pub(crate) struct Output(pub(crate) Box<dyn Write + Send>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(bytes.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }
}
