//! The input side of the guest's console: standard input, handed to the serial port as it has room.

use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use carpel_devices::console::ConsolePort;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::outcome::{Ending, Outcome};

/// What is read at once, in bytes: the serial port's FIFO. No more than this is ever held back.
const CHUNK: usize = 64;
/// When to try again while a vCPU's thread holds the serial port, which it does as long as output blocks.
const BUSY_RETRY: Duration = Duration::from_millis(5);
/// Ctrl-A, the escape key.
const ESCAPE: u8 = 1;

/// Reads standard input for the guest. Nothing is read that the serial port has not asked for.
pub struct Input {
    serial: Arc<Mutex<dyn ConsolePort>>,
    ending: Arc<Ending>,
    room: Arc<EventFd>,
    retry: TimerFd,
    /// Set if the escape key means something: on a terminal.
    escape: Option<Escape>,
    pending: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Standard input is in the interest list.
    Polled,
    /// It is not: the serial port is full.
    Held,
    /// A regular file or a device that cannot be polled, which can always be read.
    Unpollable,
    /// It has ended.
    Ended,
}

/// What the escape key did last.
#[derive(Default)]
struct Escape {
    pressed: bool,
}

impl Input {
    /// Input for this serial port; on a terminal, with the escape key.
    pub fn new(serial: Arc<Mutex<dyn ConsolePort>>, ending: Arc<Ending>, terminal: bool) -> io::Result<Self> {
        let room = serial.lock().unwrap_or_else(std::sync::PoisonError::into_inner).room();
        let escape = terminal.then(Escape::default);
        let retry = TimerFd::new()?;
        Ok(Self { serial, ending, room, retry, escape, pending: Vec::with_capacity(CHUNK), state: State::Held })
    }

    /// Hands over what is pending, then reads more, until the serial port is full or there is nothing to read now.
    fn pump(&mut self, mut readable: bool, ops: &mut EventOps) {
        loop {
            if !self.deliver() {
                return self.hold(ops);
            }
            if !(readable || self.state == State::Unpollable) || self.state == State::Ended {
                break;
            }
            self.read(ops);
            readable = false;
        }
        if self.state == State::Held {
            self.poll(ops);
        }
    }

    /// Whether the serial port took all that is pending.
    fn deliver(&mut self) -> bool {
        if self.pending.is_empty() {
            return true;
        }
        match self.serial.try_lock() {
            Ok(mut serial) => {
                let taken = serial.input(&self.pending);
                self.pending.drain(..taken);
            }
            Err(TryLockError::Poisoned(_)) => self.pending.clear(),
            Err(TryLockError::WouldBlock) => {
                if let Err(error) = self.retry.reset(BUSY_RETRY, None) {
                    log::warn!("Console input is lost: {error}");
                }
            }
        }
        self.pending.is_empty()
    }

    fn read(&mut self, ops: &mut EventOps) {
        let mut bytes = [0; CHUNK];
        match io::stdin().lock().read(&mut bytes) {
            Ok(0) => self.end(ops),
            Ok(count) => {
                let bytes = &bytes[..count];
                let leaves = self.escape.as_mut().map(|escape| escape.filter(bytes, &mut self.pending));
                match leaves {
                    None => self.pending.extend_from_slice(bytes),
                    Some(true) => self.ending.end(Outcome::Escape),
                    Some(false) => {}
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => {
                log::debug!("Cannot read standard input: {error}");
                self.end(ops);
            }
        }
    }

    fn poll(&mut self, ops: &mut EventOps) {
        self.state = match ops.add(Events::new(&io::stdin(), EventSet::IN)) {
            Ok(()) => State::Polled,
            // EPERM: a file that is always ready.
            Err(_) => State::Unpollable,
        };
        if self.state == State::Unpollable {
            self.pump(true, ops);
        }
    }

    fn hold(&mut self, ops: &mut EventOps) {
        if self.state == State::Polled {
            let _ = ops.remove(Events::empty(&io::stdin()));
            self.state = State::Held;
        }
    }

    fn end(&mut self, ops: &mut EventOps) {
        self.hold(ops);
        self.state = State::Ended;
    }
}

impl MutEventSubscriber for Input {
    fn init(&mut self, ops: &mut EventOps) {
        for events in [Events::new(&*self.room, EventSet::IN), Events::new(&self.retry, EventSet::IN)] {
            if let Err(error) = ops.add(events) {
                log::warn!("Console input is lost: {error}");
            }
        }
        self.poll(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let source = events.fd();
        if source == self.room.as_raw_fd() {
            let _ = self.room.read();
        } else if source == self.retry.as_raw_fd() {
            let _ = self.retry.wait();
        }
        self.pump(source == io::stdin().as_raw_fd(), ops);
    }
}

impl Escape {
    /// Appends what is for the guest; returns whether the user leaves. Ctrl-A x leaves, Ctrl-A Ctrl-A sends Ctrl-A.
    fn filter(&mut self, bytes: &[u8], guest: &mut Vec<u8>) -> bool {
        for &byte in bytes {
            match (self.pressed, byte) {
                (false, ESCAPE) => self.pressed = true,
                (false, byte) => guest.push(byte),
                (true, b'x' | b'X') => return true,
                (true, ESCAPE) => {
                    self.pressed = false;
                    guest.push(ESCAPE);
                }
                (true, byte) => {
                    self.pressed = false;
                    guest.extend([ESCAPE, byte]);
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_leaves_or_is_sent() {
        let filter = |bytes: &[u8]| {
            let (mut escape, mut guest) = (Escape::default(), Vec::new());
            // One byte at a time: keys come like that.
            let leaves = bytes.iter().any(|&byte| escape.filter(&[byte], &mut guest));
            (leaves, guest)
        };
        assert_eq!(filter(b"ls\r"), (false, b"ls\r".to_vec()));
        assert_eq!(filter(b"a\x01x"), (true, b"a".to_vec()));
        assert_eq!(filter(b"\x01\x01x"), (false, b"\x01x".to_vec()));
        assert_eq!(filter(b"\x01b"), (false, b"\x01b".to_vec()));
    }
}
