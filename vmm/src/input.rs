//! The input side of the guest's console: handed to the port that the guest uses, as it has room.

use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use carpel_devices::console::ConsolePort;
use carpel_devices::diagnostics;
use carpel_devices::endpoint;
use carpel_devices::virtio::console::ConsoleHandle;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::timerfd::TimerFd;

use crate::outcome::{Outcome, Shutdown};
use crate::terminal::{HELP, Terminal};

/// What is read at once, in bytes: the serial port's FIFO. No more than this is held back, beside what the virtio port gives
/// back.
const CHUNK: usize = 64;
/// When to try again while a vCPU's thread holds the serial port, which it does as long as output blocks.
const BUSY_RETRY: Duration = Duration::from_millis(5);
/// Ctrl-A, the escape key.
const ESCAPE: u8 = 1;

/// Event data: a port has room, or another port is used.
const ROOM: u32 = 0;
/// Event data: it is time to try the serial port again.
const RETRY: u32 = 1;
/// Event data: the terminal is carpel's again.
const REGAINED: u32 = 2;
/// Event data of the source, from here on.
const SOURCE: u32 = 3;

/// Reads input for the guest. Nothing is read that no port has asked for.
pub struct Input {
    source: endpoint::Input,
    ports: Ports,
    shutdown: Arc<Shutdown>,
    serial_room: Arc<EventFd>,
    retry: TimerFd,
    /// The terminal that input comes from, where there is an escape key.
    terminal: Option<Rc<Terminal>>,
    escape: Escape,
    pending: Vec<u8>,
}

/// What input can go to: the virtio port, once the guest has printed there, and else the serial port.
pub struct Ports {
    /// The serial port.
    pub serial: Arc<Mutex<dyn ConsolePort>>,
    /// The virtio port, if the guest has one.
    pub virtio: Option<ConsoleHandle>,
}

/// The escape key.
#[derive(Default)]
struct Escape {
    pressed: bool,
}

/// What the user asked of carpel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    leave: bool,
    help: bool,
}

impl Input {
    /// Input for these ports; on a terminal, with the escape key.
    pub fn new(
        source: endpoint::Input,
        ports: Ports,
        shutdown: Arc<Shutdown>,
        terminal: Option<Rc<Terminal>>,
    ) -> io::Result<Self> {
        let serial_room = ports.serial.lock().unwrap_or_else(PoisonError::into_inner).room();
        let (retry, pending) = (TimerFd::new()?, Vec::with_capacity(CHUNK));
        Ok(Self { source, ports, shutdown, serial_room, retry, terminal, escape: Escape::default(), pending })
    }

    /// Hands over what is pending, then reads more, until the port is full or there is nothing to read now.
    fn pump(&mut self) {
        while self.deliver() {
            let mut bytes = [0; CHUNK];
            let count = self.source.read(&mut bytes);
            if count == 0 {
                break;
            }
            let bytes = &bytes[..count];
            if self.terminal.is_none() {
                self.pending.extend_from_slice(bytes);
                continue;
            }
            let Request { leave, help } = self.escape.filter(bytes, &mut self.pending);
            if help {
                diagnostics::print(HELP);
            }
            if leave {
                return self.shutdown.end(Outcome::Escape);
            }
        }
    }

    /// Whether all that is pending was taken.
    fn deliver(&mut self) -> bool {
        // What the guest did not read on the one port it finds on the other.
        if let Some(virtio) = &self.ports.virtio {
            self.pending.splice(..0, virtio.take_back());
        }
        if self.pending.is_empty() {
            return true;
        }
        if let Some(virtio) = self.ports.virtio.as_ref().filter(|port| port.is_used()) {
            let taken = virtio.input(&self.pending);
            self.pending.drain(..taken);
        } else {
            self.deliver_to_serial();
        }
        self.pending.is_empty()
    }

    fn deliver_to_serial(&mut self) {
        match self.ports.serial.try_lock() {
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
    }

    fn add_sources(&self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        ops.add(Events::with_data(&*self.serial_room, ROOM, EventSet::IN))?;
        if let Some(virtio) = &self.ports.virtio {
            ops.add(Events::with_data(virtio.room(), ROOM, EventSet::IN))?;
        }
        ops.add(Events::with_data(&self.retry, RETRY, EventSet::IN))?;
        if let Some(terminal) = &self.terminal {
            ops.add(Events::with_data(terminal.regained(), REGAINED, EventSet::IN))?;
        }
        self.source.register(SOURCE, ops)
    }
}

impl MutEventSubscriber for Input {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = self.add_sources(ops) {
            self.shutdown.end(Outcome::Failed(format!("Cannot wait for console input: {error}")));
        }
        // What cannot be waited for is there from the start.
        self.pump();
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            ROOM => {
                let _ = self.serial_room.read();
                let _ = self.ports.virtio.as_ref().map(|port| port.room().read());
            }
            RETRY => {
                let _ = self.retry.wait();
            }
            REGAINED => {
                let _ = self.terminal.as_ref().map(|terminal| terminal.regained().read());
            }
            source => {
                // What is typed to carpel in its first moment in the foreground is not for a terminal that edits lines.
                self.terminal.iter().for_each(|terminal| terminal.look());
                self.source.event(SOURCE, source - SOURCE, events, ops);
            }
        }
        self.pump();
    }
}

impl Escape {
    /// Appends what is for the guest; returns what is for carpel. Ctrl-A x leaves, Ctrl-A h helps, Ctrl-A Ctrl-A sends
    /// Ctrl-A.
    fn filter(&mut self, bytes: &[u8], guest: &mut Vec<u8>) -> Request {
        let mut request = Request::default();
        for &byte in bytes {
            match (std::mem::replace(&mut self.pressed, false), byte) {
                (false, ESCAPE) => self.pressed = true,
                (false, byte) => guest.push(byte),
                (true, b'x' | b'X') => {
                    request.leave = true;
                    break;
                }
                (true, b'h' | b'H') => request.help = true,
                (true, ESCAPE) => guest.push(ESCAPE),
                (true, byte) => guest.extend([ESCAPE, byte]),
            }
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_leaves_helps_or_is_sent() {
        let filter = |bytes: &[u8]| {
            let (mut escape, mut guest) = (Escape::default(), Vec::new());
            // One byte at a time: keys come like that.
            let mut request = Request::default();
            for &byte in bytes {
                let Request { leave, help } = escape.filter(&[byte], &mut guest);
                request = Request { leave: request.leave || leave, help: request.help || help };
                if leave {
                    break;
                }
            }
            (request, guest)
        };
        let asked = |leave, help| Request { leave, help };
        assert_eq!(filter(b"ls\r"), (asked(false, false), b"ls\r".to_vec()));
        assert_eq!(filter(b"a\x01xb"), (asked(true, false), b"a".to_vec()));
        assert_eq!(filter(b"a\x01hx"), (asked(false, true), b"ax".to_vec()));
        assert_eq!(filter(b"\x01\x01x"), (asked(false, false), b"\x01x".to_vec()));
        assert_eq!(filter(b"\x01b"), (asked(false, false), b"\x01b".to_vec()));
    }
}
