//! A connection between a socket of the host's and one of the guest's.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;

use event_manager::EventSet;
use nix::sys::socket::{MsgFlags, recv};
use vm_memory::{ReadVolatile as _, VolatileMemoryError, WriteVolatile as _};

use super::packet::{HEADER, Header, NO_RECEIVE, NO_SEND, op};
use crate::virtio::chain::{Buffers, Chain};
use crate::virtio::queue::Fault;

/// What is held of a guest's data for a socket that takes none at the moment, in bytes: two of Linux' largest packets.
pub const BUFFER: u32 = 128 << 10;
/// Data of one packet to the guest, in bytes: as much as Linux sends in one.
const PACKET_MAX: u64 = 64 << 10;
/// The guest is told of room when there is so much more than it knows of.
const TELL: u32 = BUFFER / 2;
/// The longest first line, `CONNECT` with a number of 32 bits, and some room.
const LINE_MAX: usize = 32;

/// Ports of both ends, which name a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ports {
    pub host: u32,
    pub guest: u32,
}

/// What the host's first line says.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Nothing yet.
    Incomplete,
    /// It asks for this port of the guest.
    Port(u32),
    /// Nothing sensible, or the socket was closed.
    Wrong,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// The host has not said yet which port it wants.
    Greeting(Vec<u8>),
    /// The guest is asked for a connection.
    Requested,
    Established,
    /// It is over, of which the guest is to be told.
    Broken,
}

/// How a connection is over.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The guest waits for the confirmation.
    Reset,
    /// The guest knows already, or never knew.
    Silent,
}

/// A packet for the guest; its data is there already.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub op: u16,
    pub flags: u32,
    pub length: u32,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a condition of its own, and they occur in most combinations"
)]
pub struct Connection {
    /// None before the greeting.
    pub ports: Option<Ports>,
    /// It waits for its turn to send to the guest.
    pub queued: bool,
    /// None when the host closed it and the guest was told.
    stream: Option<UnixStream>,
    stage: Stage,
    /// A REQUEST, RESPONSE or RESET that the guest has not got yet.
    opening: Option<u16>,
    /// The stream may have something to read, ...
    readable: bool,
    /// ... take something, ...
    writable: bool,
    /// ... for which it is watched, ...
    watched_for_room: bool,
    /// ... is closed in both directions, ...
    hung_up: bool,
    /// ... has been read to its end, ...
    ended: bool,
    /// ... or takes nothing any more.
    refuses: bool,
    /// What the guest was told by SHUTDOWN, ...
    told: u32,
    /// ... and what it told.
    guest_flags: u32,
    /// The guest has forgotten the connection; only what it sent before is left to deliver.
    forgotten: bool,
    /// Data of the guest that the stream has not taken yet: [`BUFFER`] bytes at most.
    pending: VecDeque<u8>,
    /// Bytes of the guest that are done with, modulo 2^32, ...
    forwarded: u32,
    /// ... as the guest knows.
    told_forwarded: u32,
    owes_credit: bool,
    /// Bytes sent to the guest, modulo 2^32, ...
    sent: u32,
    /// ... which the guest has taken out of its buffer, ...
    guest_forwarded: u32,
    /// ... that has this size.
    guest_buffer: u32,
    /// The guest was asked for room.
    asked: bool,
}

impl Connection {
    /// The host connected, and is to say which port it wants.
    pub fn from_host(stream: UnixStream) -> Self {
        Self {
            ports: None,
            queued: false,
            stream: Some(stream),
            stage: Stage::Greeting(Vec::new()),
            opening: None,
            readable: true,
            writable: true,
            watched_for_room: false,
            hung_up: false,
            ended: false,
            refuses: false,
            told: 0,
            guest_flags: 0,
            forgotten: false,
            pending: VecDeque::new(),
            forwarded: 0,
            told_forwarded: 0,
            owes_credit: false,
            sent: 0,
            guest_forwarded: 0,
            guest_buffer: 0,
            asked: false,
        }
    }

    /// The guest connected.
    pub fn from_guest(stream: UnixStream, ports: Ports, request: &Header) -> Self {
        let mut connection = Self::from_host(stream);
        connection.ports = Some(ports);
        connection.stage = Stage::Established;
        connection.opening = Some(op::RESPONSE);
        connection.take_credit(request);
        connection
    }

    /// Takes note of what is up with the stream.
    pub fn note(&mut self, events: EventSet) {
        let gone = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        self.hung_up |= gone;
        self.readable |= gone || events.intersects(EventSet::IN | EventSet::READ_HANG_UP);
        self.writable |= gone || events.contains(EventSet::OUT);
    }

    /// Whether the first line is still to be read.
    pub fn greets(&self) -> bool {
        matches!(self.stage, Stage::Greeting(_))
    }

    /// Reads the first line, and nothing behind it.
    pub fn greet(&mut self) -> Greeting {
        let (Stage::Greeting(line), Some(stream)) = (&mut self.stage, &mut self.stream) else { return Greeting::Wrong };
        loop {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1..) if byte == *b"\n" => return port(line).map_or(Greeting::Wrong, Greeting::Port),
                Ok(1..) if line.len() < LINE_MAX => line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Greeting::Incomplete,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return Greeting::Wrong,
            }
        }
    }

    /// Asks the guest for a connection.
    pub fn request(&mut self, ports: Ports) {
        self.ports = Some(ports);
        self.stage = Stage::Requested;
        self.opening = Some(op::REQUEST);
    }

    /// Takes a packet of the guest's other than RESET; returns whether it was one for this connection as it is.
    pub fn take(&mut self, header: &Header, chain: &Chain) -> Result<bool, Fault> {
        if self.stage == Stage::Broken {
            return Ok(true);
        }
        self.take_credit(header);
        let established = self.stage == Stage::Established;
        match header.op {
            op::RESPONSE if self.stage == Stage::Requested && self.opening.is_none() => return Ok(self.accepted()),
            op::DATA if established && self.guest_flags & NO_SEND == 0 => return self.take_data(header, chain),
            op::SHUTDOWN if established => self.shut_down(header.flags),
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST => self.owes_credit = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The guest has forgotten the connection. What it sent before it shut down is still delivered.
    pub fn forget(&mut self) {
        self.forgotten = true;
        if self.guest_flags & NO_SEND == 0 {
            self.pending.clear();
        }
    }

    /// Whether the guest may know of it.
    pub fn is_known(&self) -> bool {
        self.ports.is_some() && self.opening != Some(op::REQUEST) && !self.forgotten
    }

    /// Ends it at once for the host; it is over when the guest got a RESET.
    pub fn break_off(&mut self) {
        self.abandon();
        self.stage = Stage::Broken;
        self.opening = Some(op::RESET);
    }

    /// Whether only the RESET is left of it.
    pub fn is_broken(&self) -> bool {
        self.stage == Stage::Broken
    }

    /// Hands on what the guest sent before.
    pub fn flush(&mut self) {
        while self.writable && !self.pending.is_empty() {
            let Some(stream) = &mut self.stream else { break };
            let (first, _) = self.pending.as_slices();
            match stream.write(first) {
                Ok(written) => {
                    self.pending.drain(..written);
                    self.forwarded = self.forwarded.wrapping_add(written as u32);
                }
                Err(error) => self.writing_failed(&error),
            }
        }
        if self.pending.is_empty() && self.pending.capacity() > 0 {
            self.pending = VecDeque::new();
            self.finish_writing();
        }
    }

    /// The stream, and whether it is to be watched for room from now on, if that changes.
    pub fn room_to_watch(&mut self) -> Option<(RawFd, bool)> {
        let full = !self.writable && !self.pending.is_empty();
        let changes = std::mem::replace(&mut self.watched_for_room, full) != full;
        self.stream.as_ref().filter(|_| changes).map(|stream| (stream.as_raw_fd(), full))
    }

    /// Whether and how it is over.
    pub fn end(&self) -> Option<End> {
        if self.is_broken() {
            return (self.forgotten || self.opening.is_none()).then_some(End::Silent);
        }
        if self.stage != Stage::Established {
            // Who asked for the connection is gone before it was there.
            let asked = self.opening.is_none() && !self.forgotten;
            let over = self.forgotten || self.hung_up && self.stage == Stage::Requested;
            return over.then_some(if asked { End::Reset } else { End::Silent });
        }
        let closed = self.guest_flags == NO_RECEIVE | NO_SEND;
        match self.pending.is_empty() {
            true if self.forgotten => Some(End::Silent),
            true if closed => Some(End::Reset),
            _ => None,
        }
    }

    /// Whether there is, or may be, something to send to the guest.
    pub fn wants(&self) -> bool {
        if self.forgotten {
            return false;
        }
        self.opening.is_some()
            || self.stage == Stage::Established
                && (self.may_read() || self.told != self.flags() || self.credit_due() || self.starves())
    }

    /// The next packet for the guest. Its data is put into `room`, behind the header's place.
    pub fn next(&mut self, room: &Buffers) -> Result<Option<Message>, Fault> {
        if let Some(op) = self.opening.take() {
            return Ok(Some(Message { op, ..Message::default() }));
        }
        if !self.wants() {
            return Ok(None);
        }
        if self.may_read() {
            let length = self.read(room)?;
            if length > 0 {
                self.sent = self.sent.wrapping_add(length);
                return Ok(Some(Message { op: op::DATA, length, ..Message::default() }));
            }
        }
        if self.told != self.flags() {
            self.told = self.flags();
            if self.told == NO_RECEIVE | NO_SEND {
                self.abandon();
            }
            return Ok(Some(Message { op: op::SHUTDOWN, flags: self.told, length: 0 }));
        }
        let op = if self.credit_due() {
            op::CREDIT_UPDATE
        } else if self.starves() {
            self.asked = true;
            op::CREDIT_REQUEST
        } else {
            return Ok(None);
        };
        Ok(Some(Message { op, ..Message::default() }))
    }

    /// What is in every packet: the room for the guest's data, and what was taken out of it.
    pub fn tell_credit(&mut self) -> (u32, u32) {
        self.owes_credit = false;
        self.told_forwarded = self.forwarded;
        (BUFFER, self.forwarded)
    }

    fn take_credit(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_forwarded = header.fwd_cnt;
        if self.credit() > 0 {
            self.asked = false;
        }
    }

    /// How many bytes the guest has room for.
    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    fn credit_due(&self) -> bool {
        self.owes_credit || self.forwarded.wrapping_sub(self.told_forwarded) >= TELL
    }

    fn wants_to_read(&self) -> bool {
        self.stream.is_some() && self.readable && !self.ended && self.guest_flags & NO_RECEIVE == 0
    }

    fn may_read(&self) -> bool {
        self.wants_to_read() && self.credit() > 0
    }

    /// Data waits for a guest without room. Asked once, for a guest that has none says so each time.
    fn starves(&self) -> bool {
        self.wants_to_read() && self.credit() == 0 && !self.asked
    }

    /// What the host does not do any more, as SHUTDOWN says it.
    fn flags(&self) -> u32 {
        let refuses = self.refuses || self.ended && self.hung_up;
        (if self.ended { NO_SEND } else { 0 }) | (if refuses { NO_RECEIVE } else { 0 })
    }

    fn accepted(&mut self) -> bool {
        self.stage = Stage::Established;
        let (Some(ports), Some(stream)) = (self.ports, &mut self.stream) else { return false };
        // A new socket has room for a line, unless it is closed.
        if let Err(error) = stream.write_all(format!("OK {}\n", ports.host).as_bytes()) {
            self.writing_failed(&error);
        }
        true
    }

    /// Hands the data on, and keeps what the stream does not take. False if there is less data than the header says, or more
    /// than the guest had room for.
    fn take_data(&mut self, header: &Header, chain: &Chain) -> Result<bool, Fault> {
        let length = u64::from(header.length);
        let held = self.pending.len() as u64;
        if length > chain.readable().len() - HEADER as u64 || held + length > BUFFER.into() {
            return Ok(false);
        }
        let mut written = 0;
        if held == 0 && self.stream.is_some() {
            for slice in chain.readable().slices(HEADER as u64, length)? {
                let result = self.stream.as_mut().map_or(Ok(0), |stream| stream.write_volatile(&slice));
                let count = result.unwrap_or_else(|error| self.writing_failed_volatile(error));
                written += count;
                if count < slice.len() {
                    break;
                }
            }
        }
        if self.refuses || self.stream.is_none() {
            written = length as usize;
        }
        self.forwarded = self.forwarded.wrapping_add(written as u32);
        let mut rest = vec![0; length as usize - written];
        chain.readable().read((HEADER + written) as u64, &mut rest)?;
        self.pending.extend(rest);
        // After a short write, only an attempt tells whether the stream takes more.
        self.flush();
        Ok(true)
    }

    fn shut_down(&mut self, flags: u32) {
        self.guest_flags |= flags & (NO_RECEIVE | NO_SEND);
        if self.guest_flags & NO_RECEIVE != 0
            && let Some(stream) = &self.stream
        {
            // An error means that it is closed anyway.
            let _ = stream.shutdown(Shutdown::Read);
        }
        if self.pending.is_empty() {
            self.finish_writing();
        }
    }

    /// All that the guest sent is handed on.
    fn finish_writing(&mut self) {
        if let Some(stream) = self.stream.as_ref().filter(|_| self.guest_flags & NO_SEND != 0) {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    fn writing_failed_volatile(&mut self, error: VolatileMemoryError) -> usize {
        self.writing_failed(&into_io(error));
        0
    }

    fn writing_failed(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.writable = false,
            io::ErrorKind::Interrupted => {}
            _ => {
                self.refuses = true;
                self.forwarded = self.forwarded.wrapping_add(self.pending.len() as u32);
                self.pending.clear();
            }
        }
    }

    /// Reads as much as the packet, the guest and `room` have room for.
    fn read(&mut self, room: &Buffers) -> Result<u32, Fault> {
        let slices = room.slices(HEADER as u64, PACKET_MAX.min(self.credit().into()))?;
        if slices.is_empty() {
            // That is enough for packets without data, of which the end of the stream may be one.
            let looked = self.stream.as_ref().map_or(Ok(0), look);
            return match self.note_read(looked) {
                0 => Ok(0),
                _ => Err(Fault::Request("A buffer for packets has no room for data")),
            };
        }
        let mut length = 0;
        for mut slice in slices {
            let read = self.stream.as_mut().map_or(Ok(0), |stream| stream.read_volatile(&mut slice).map_err(into_io));
            let count = self.note_read(read);
            length += count as u32;
            if count < slice.len() {
                break;
            }
        }
        Ok(length)
    }

    /// Takes note of what reading came to; returns how many bytes there were.
    fn note_read(&mut self, result: io::Result<usize>) -> usize {
        match result {
            Ok(0) => self.ended = true,
            Ok(count) => return count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(error) => {
                log::debug!("A connection of the guest breaks: {error}");
                (self.ended, self.refuses) = (true, true);
            }
        }
        0
    }

    /// The host closed it, and the guest is told; its confirmation is still to come.
    fn abandon(&mut self) {
        self.stream = None;
        self.forwarded = self.forwarded.wrapping_add(self.pending.len() as u32);
        self.pending = VecDeque::new();
    }
}

/// Whether there is data, which stays: 0 at the stream's end.
fn look(stream: &UnixStream) -> io::Result<usize> {
    Ok(recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)?)
}

fn port(line: &[u8]) -> Option<u32> {
    let port = std::str::from_utf8(line).ok()?.strip_prefix("CONNECT ")?.trim_end_matches('\r');
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())?
}

fn into_io(error: VolatileMemoryError) -> io::Error {
    match error {
        VolatileMemoryError::IOError(error) => error,
        error => io::Error::other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::port;

    #[test]
    fn a_line_names_a_port() {
        assert_eq!(port(b"CONNECT 52"), Some(52));
        assert_eq!(port(b"CONNECT 4294967295\r"), Some(u32::MAX));
        for wrong in
            ["", "CONNECT", "CONNECT ", "CONNECT +1", "CONNECT 4294967296", "connect 1", "CONNECT 1 2", "GET / "]
        {
            assert_eq!(port(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
