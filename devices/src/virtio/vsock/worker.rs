//! What moves packets between the guest's queues and the connections.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;

use event_manager::{EventOps, EventSet, Events};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

use super::connection::{Connection, End, Greeting, Message, Ports};
use super::packet::{HEADER, HOST_CID, Header, STREAM, op};
use super::{QUEUES, RX, TX};
use crate::host_socket::HostSocket;
use crate::virtio::Worker;
use crate::virtio::chain::{Buffers, Chain};
use crate::virtio::queue::{Fault, Queues};

/// The most connections at a time: their buffers come to 64 MiB, and their descriptors leave room in the usual limit of 1024.
pub const CONNECTIONS: usize = 512;
/// Refusals that wait for room in the guest's queue. Beyond that, a guest that sends nonsense gets no answers.
const REFUSALS: usize = 256;
/// Host ports of connections that the host begins: above those that programs choose.
const FIRST_PORT: u32 = 1 << 30;
/// Events taken at once; what is left comes again.
const EVENTS: usize = 64;
/// The listening socket's mark among events; connections have their slots.
const LISTENER: u64 = u64::MAX;
/// What is always to be known of a stream.
const STREAM_EVENTS: EventSet = EventSet::IN.union(EventSet::READ_HANG_UP).union(EventSet::EDGE_TRIGGERED);

pub struct VsockWorker {
    cid: u64,
    socket: HostSocket,
    /// Streams are watched edge-triggered, so that nothing needs to change while one waits for the guest. For room they are
    /// watched only when full: each read of the other end's would tell of it.
    epoll: Epoll,
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    by_ports: HashMap<Ports, usize>,
    /// Connections that have something for the guest, by turns.
    ready: VecDeque<usize>,
    refusals: VecDeque<Header>,
    /// A buffer of the guest's that was taken for a packet that did not come to be.
    spare: Option<Chain>,
    next_port: u32,
    /// Programs of the host may wait to be accepted.
    waiting: bool,
}

impl VsockWorker {
    pub fn new(cid: u64, socket: HostSocket) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
        epoll.ctl(ControlOperation::Add, socket.listener().as_raw_fd(), EpollEvent::new(events, LISTENER))?;
        Ok(Self {
            cid,
            socket,
            epoll,
            slots: (0..CONNECTIONS).map(|_| None).collect(),
            free: (0..CONNECTIONS).rev().collect(),
            by_ports: HashMap::new(),
            ready: VecDeque::new(),
            refusals: VecDeque::new(),
            spare: None,
            next_port: FIRST_PORT,
            waiting: false,
        })
    }

    /// Takes the host's programs in, as far as there is room.
    fn accept(&mut self) {
        while self.waiting && !self.free.is_empty() {
            match self.socket.accept() {
                Ok(stream) => {
                    let fd = stream.as_raw_fd();
                    if let Some(slot) = self.add(Connection::from_host(stream), fd) {
                        self.serve(slot);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.waiting = false,
                Err(error) => {
                    // It is tried again when a connection ends or another program comes.
                    log::debug!("Cannot accept a connection for the guest: {error}");
                    return;
                }
            }
        }
    }

    /// Gives the connection a slot and watches its stream.
    fn add(&mut self, connection: Connection, fd: RawFd) -> Option<usize> {
        let slot = self.free.pop()?;
        if let Err(error) = self.epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(STREAM_EVENTS, slot as u64)) {
            log::debug!("Cannot watch a connection of the guest: {error}");
            self.free.push(slot);
            return None;
        }
        if let Some(ports) = connection.ports {
            self.by_ports.insert(ports, slot);
        }
        self.slots[slot] = Some(connection);
        Some(slot)
    }

    fn remove(&mut self, slot: usize) {
        let Some(connection) = self.slots[slot].take() else { return };
        if let Some(ports) = connection.ports.filter(|ports| self.by_ports.get(ports) == Some(&slot)) {
            self.by_ports.remove(&ports);
        }
        if connection.queued {
            self.ready.retain(|&other| other != slot);
        }
        self.free.push(slot);
    }

    /// Ends a connection that the guest knows of. Its place is free again once the guest was told: none of these messages is
    /// ever lost, and there are no more of them than connections.
    fn reset(&mut self, slot: usize) {
        if let Some(connection) = &mut self.slots[slot] {
            connection.break_off();
            self.settle(slot);
        }
    }

    /// Ends all connections that the guest knows of, for packets of theirs may be lost. Those that it does not know yet wait for it.
    fn reset_known(&mut self) {
        for slot in 0..CONNECTIONS {
            if self.slots[slot].as_ref().is_some_and(Connection::is_known) {
                self.reset(slot);
            }
        }
    }

    fn refuse(&mut self, refusal: Header) {
        if self.refusals.len() < REFUSALS {
            self.refusals.push_back(refusal);
        }
    }

    fn header(&self, ports: Ports) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.cid,
            src_port: ports.host,
            dst_port: ports.guest,
            kind: STREAM,
            ..Header::default()
        }
    }

    /// Does what can be done for a connection whose stream is ready.
    fn serve(&mut self, slot: usize) {
        let Some(connection) = &mut self.slots[slot] else { return };
        if connection.greets() {
            match connection.greet() {
                Greeting::Incomplete => {}
                Greeting::Wrong => self.remove(slot),
                Greeting::Port(guest) => {
                    let ports = self.choose_ports(guest);
                    self.by_ports.insert(ports, slot);
                    if let Some(connection) = &mut self.slots[slot] {
                        connection.request(ports);
                    }
                }
            }
        } else {
            connection.flush();
        }
        self.settle(slot);
    }

    /// A port of the host's that no other connection to the guest's port has.
    fn choose_ports(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports { host: self.next_port, guest };
            self.next_port = FIRST_PORT | self.next_port.wrapping_add(1) & (FIRST_PORT - 1);
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// Ends the connection if it is over; else has it wait for its turn if it has something for the guest.
    fn settle(&mut self, slot: usize) {
        let Some(connection) = &mut self.slots[slot] else { return };
        match connection.end() {
            Some(End::Reset) => self.reset(slot),
            Some(End::Silent) => self.remove(slot),
            None => {
                if let Some((fd, full)) = connection.room_to_watch() {
                    let events = if full { STREAM_EVENTS | EventSet::OUT } else { STREAM_EVENTS };
                    // Of a stream that is watched, this cannot fail.
                    let _ = self.epoll.ctl(ControlOperation::Modify, fd, EpollEvent::new(events, slot as u64));
                }
                if connection.wants() && !connection.queued {
                    connection.queued = true;
                    self.ready.push_back(slot);
                }
            }
        }
    }

    /// Takes a packet from the guest. One that is too short for a header, or from somebody else, has nobody to answer to.
    fn take(&mut self, chain: &Chain) -> Result<(), Fault> {
        let mut bytes = [0; HEADER];
        if chain.readable().read(0, &mut bytes)? < HEADER {
            return Ok(());
        }
        let header = Header::parse(&bytes);
        if header.src_cid != self.cid {
            return Ok(());
        }
        let ports = Ports { host: header.dst_port, guest: header.src_port };
        let for_us = header.dst_cid == HOST_CID && header.kind == STREAM;
        let slot = self.by_ports.get(&ports).copied().filter(|_| for_us);
        match slot.and_then(|slot| Some((slot, self.slots[slot].as_mut()?))) {
            Some((slot, connection)) if header.op == op::RESET => {
                connection.forget();
                self.by_ports.remove(&ports);
                self.settle(slot);
            }
            Some((slot, connection)) => {
                if connection.take(&header, chain)? {
                    self.settle(slot);
                } else {
                    self.reset(slot);
                }
            }
            None if header.op == op::REQUEST && for_us => self.connect(ports, &header),
            None if header.op != op::RESET => self.refuse(header.refusal()),
            None => {}
        }
        Ok(())
    }

    fn connect(&mut self, ports: Ports, request: &Header) {
        match self.socket.connect(ports.host) {
            Ok(stream) => {
                if let Some(slot) = self.add_of_guest(stream, ports, request) {
                    return self.settle(slot);
                }
            }
            Err(error) => log::debug!("The guest cannot connect to port {}: {error}", ports.host),
        }
        self.refuse(request.refusal());
    }

    fn add_of_guest(&mut self, stream: UnixStream, ports: Ports, request: &Header) -> Option<usize> {
        let fd = stream.as_raw_fd();
        self.add(Connection::from_guest(stream, ports, request), fd)
    }

    /// Sends to the guest as long as it gives buffers and there is something to send.
    fn send(&mut self, queues: &mut Queues) -> Result<(), Fault> {
        let Some(queue) = queues.get(RX) else { return Ok(()) };
        while !self.refusals.is_empty() || !self.ready.is_empty() {
            let chain = match self.spare.take() {
                Some(chain) => chain,
                None => match queue.pop()? {
                    Some(chain) => chain,
                    None => return Ok(()),
                },
            };
            if chain.writable().len() < HEADER as u64 {
                return Err(Fault::Request("A buffer for packets has no room for a header"));
            }
            match self.next(&chain.writable())? {
                Some(header) => {
                    chain.writable().write(0, &header.bytes())?;
                    queue.complete(chain, HEADER as u32 + header.length)?;
                }
                None => self.spare = Some(chain),
            }
        }
        Ok(())
    }

    /// The next packet for the guest, whose data is in `room` already.
    fn next(&mut self, room: &Buffers) -> Result<Option<Header>, Fault> {
        if let Some(refusal) = self.refusals.pop_front() {
            return Ok(Some(refusal));
        }
        while let Some(slot) = self.ready.pop_front() {
            let Some(connection) = &mut self.slots[slot] else { continue };
            connection.queued = false;
            let (message, ports) = (connection.next(room)?, connection.ports);
            if let (Some(Message { op, flags, length }), Some(ports)) = (message, ports) {
                let (buf_alloc, fwd_cnt) = connection.tell_credit();
                let header = Header { length, op, flags, buf_alloc, fwd_cnt, ..self.header(ports) };
                self.settle(slot);
                return Ok(Some(header));
            }
        }
        Ok(None)
    }
}

impl Worker for VsockWorker {
    fn thread(&self) -> Option<String> {
        Some("vsock".into())
    }

    fn queues(&self) -> Range<usize> {
        0..QUEUES
    }

    fn register(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        ops.add(Events::with_data(&self.epoll, 0, EventSet::IN))
    }

    /// The driver is a new one, or has forgotten everything: what the last one was still to be told is not for it.
    fn start(&mut self, _features: u64) {
        self.refusals.clear();
        for slot in 0..CONNECTIONS {
            if self.slots[slot].as_ref().is_some_and(Connection::is_broken) {
                self.remove(slot);
            }
        }
    }

    fn kick(&mut self, number: usize, queues: &mut Queues) -> Result<(), Fault> {
        if number == TX {
            while let Some(queue) = queues.get(TX)
                && let Some(chain) = queue.pop()?
            {
                self.take(&chain)?;
                queue.complete(chain, 0)?;
            }
        }
        self.accept();
        self.send(queues)
    }

    fn event(&mut self, _events: Events, queues: &mut Queues, _ops: &mut EventOps) -> Result<(), Fault> {
        let mut events = [EpollEvent::default(); EVENTS];
        // An error means that nothing is ready, and that it is asked again.
        let count = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in &events[..count] {
            if event.data() == LISTENER {
                self.waiting = true;
                continue;
            }
            // A slot may have another connection by now, which then looks without need.
            let slot = event.data() as usize;
            if let Some(Some(connection)) = self.slots.get_mut(slot) {
                connection.note(event.event_set());
                self.serve(slot);
            }
        }
        self.accept();
        self.send(queues)
    }

    fn stop(&mut self, queue: usize) {
        if queue == RX {
            self.spare = None;
        }
        if queue == RX || queue == TX {
            self.reset_known();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_stream_with_room_is_not_watched_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut worker = VsockWorker::new(3, HostSocket::bind(&directory.path().join("vm")).unwrap()).unwrap();
        let (stream, mut other) = UnixStream::pair().unwrap();
        let ports = Ports { host: 1, guest: 2 };
        let slot = worker.add_of_guest(stream, ports, &Header::default()).unwrap();
        worker.settle(slot);
        let mut events = [EpollEvent::default(); 2];
        assert_eq!(worker.epoll.wait(0, &mut events).unwrap(), 0);
        other.write_all(b"x").unwrap();
        assert_eq!(worker.epoll.wait(0, &mut events).unwrap(), 1);
        assert_eq!(events[0].event_set(), EventSet::IN);
    }
}
