use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use vm_memory::{Bytes as _, GuestAddress};

use super::connection::BUFFER;
use super::packet::{HEADER, HOST_CID, Header, NO_RECEIVE, NO_SEND, STREAM, op};
use super::worker::CONNECTIONS;
use super::*;
use crate::virtio::testing::{BUFFERS, Guest, HIGH_MEMORY, MEMORY, NEXT, WRITE, register};

const CID: u64 = 77;
const GUEST_PORT: u32 = 52;
/// Buffers for packets to the guest: a header and 4 KiB, which lie apart in guest memory.
const ROOM: u32 = HEADER as u32 + 4096;
const RECEIVE: u64 = BUFFERS;
/// Packets from the guest are written here.
const SEND: u64 = BUFFERS + 0x2_0000;
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest with a driver that does what tests tell it.
struct Driver {
    guest: Guest,
    directory: TempDir,
    /// What the driver says of its own buffer.
    buf_alloc: u32,
    fwd_cnt: u32,
}

/// A connection as the guest sees it.
#[derive(Clone, Copy)]
struct Ends {
    host: u32,
    guest: u32,
}

impl Driver {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = format!("vsock,cid={CID},uds={}", directory.path().join("vm").display());
        let guest = Guest::new(open(&KIND.kind.parse(&device).unwrap()).unwrap());
        let mut driver = Self { guest, directory, buf_alloc: 1 << 20, fwd_cnt: 0 };
        driver.start();
        driver
    }

    fn start(&mut self) {
        self.guest.start();
        for head in 0..16 {
            self.give(head);
        }
    }

    fn path(&self, port: Option<u32>) -> PathBuf {
        self.directory.path().join(port.map_or("vm".into(), |port| format!("vm_{port}")))
    }

    /// Makes a buffer available to the device.
    fn give(&mut self, head: u16) {
        self.guest.descriptor(RX, head, (RECEIVE + u64::from(head) * 0x1400, ROOM, WRITE, 0));
        self.guest.publish(RX, head);
        self.guest.kick(RX);
    }

    fn receive_now(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, length) = self.guest.poll_used(RX)?;
        let bytes = self.guest.bytes(RECEIVE + u64::from(head) * 0x1400, length as usize);
        self.give(head as u16);
        let header = Header::parse(bytes[..HEADER].try_into().unwrap());
        assert_eq!(header.length as usize, bytes.len() - HEADER);
        assert_eq!(header.dst_cid, CID);
        Some((header, bytes[HEADER..].to_vec()))
    }

    #[track_caller]
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let started = std::time::Instant::now();
        loop {
            if let Some(packet) = self.receive_now() {
                return packet;
            }
            assert!(started.elapsed() < PATIENCE, "No packet comes");
            thread::sleep(Duration::from_micros(50));
        }
    }

    #[track_caller]
    fn expect(&mut self, op: u16) -> Header {
        let (header, data) = self.receive();
        assert_eq!((header.op, data.len()), (op, 0), "{header:?}");
        header
    }

    /// The host closed its socket: both directions end, at once or one after the other.
    #[track_caller]
    fn expect_hang_up(&mut self) {
        let flags = self.expect(op::SHUTDOWN).flags;
        if flags != NO_SEND | NO_RECEIVE {
            assert_eq!((flags, self.expect(op::SHUTDOWN).flags), (NO_SEND, NO_SEND | NO_RECEIVE));
        }
    }

    /// Nothing comes, as far as one can wait for that.
    #[track_caller]
    fn expect_nothing(&mut self) {
        thread::sleep(Duration::from_millis(20));
        assert_eq!(self.receive_now(), None);
    }

    fn header(&self, ends: Ends, op: u16) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: ends.guest,
            dst_port: ends.host,
            length: 0,
            kind: STREAM,
            op,
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    /// Sends a header, and data in a buffer of its own, if there is any.
    fn send_packet(&mut self, header: Header, data: &[u8]) {
        self.guest.memory.write_slice(&header.bytes(), GuestAddress(SEND)).unwrap();
        self.guest.memory.write_slice(data, GuestAddress(SEND + 0x100)).unwrap();
        let buffers = [(SEND, HEADER as u32, 0), (SEND + 0x100, data.len() as u32, 0)];
        self.guest.request(TX, &buffers[..if data.is_empty() { 1 } else { 2 }]);
    }

    fn send(&mut self, ends: Ends, op: u16) {
        self.send_packet(self.header(ends, op), &[]);
    }

    fn send_data(&mut self, ends: Ends, data: &[u8]) {
        self.send_packet(Header { length: data.len() as u32, ..self.header(ends, op::DATA) }, data);
    }

    fn send_shutdown(&mut self, ends: Ends, flags: u32) {
        self.send_packet(Header { flags, ..self.header(ends, op::SHUTDOWN) }, &[]);
    }

    /// A connection from the host's side.
    fn connect_from_host(&mut self) -> (Ends, UnixStream) {
        let mut stream = self.stream();
        stream.write_all(format!("CONNECT {GUEST_PORT}\n").as_bytes()).unwrap();
        let request = self.expect(op::REQUEST);
        assert_eq!((request.src_cid, request.dst_port, request.buf_alloc), (HOST_CID, GUEST_PORT, BUFFER));
        let ends = Ends { host: request.src_port, guest: GUEST_PORT };
        self.send(ends, op::RESPONSE);
        assert_eq!(read_line(&mut stream), format!("OK {}\n", ends.host));
        (ends, stream)
    }

    fn stream(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path(None)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A connection from the guest's side.
    fn connect_from_guest(&mut self) -> (Ends, UnixStream) {
        let ends = Ends { host: 1024, guest: 40_000 };
        let path = self.path(Some(ends.host));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        self.send(ends, op::REQUEST);
        self.expect(op::RESPONSE);
        let stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (ends, stream)
    }
}

fn read_line(stream: &mut UnixStream) -> String {
    let mut line = String::new();
    let mut byte = [0];
    while !line.ends_with('\n') && stream.read(&mut byte).unwrap() == 1 {
        line.push(byte[0].into());
    }
    line
}

fn read_exactly(stream: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes in which a lost, doubled or moved piece shows.
fn noise(length: usize, mut state: u64) -> Vec<u8> {
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(next).collect()
}

#[test]
fn the_host_connects_to_the_guest() {
    let mut driver = Driver::new();
    assert_eq!(driver.guest.read(register::CONFIG), CID as u32);
    let (ends, mut stream) = driver.connect_from_host();
    stream.write_all(b"question").unwrap();
    let (header, data) = driver.receive();
    assert_eq!((header.op, data.as_slice()), (op::DATA, &b"question"[..]));
    assert_eq!((header.src_port, header.dst_port), (ends.host, ends.guest));
    driver.send_data(ends, b"answer");
    assert_eq!(read_exactly(&mut stream, 6), b"answer");
    let (other, _stream) = driver.connect_from_host();
    assert_ne!(other.host, ends.host);
}

#[test]
fn a_port_where_the_guest_does_not_listen_is_closed() {
    let mut driver = Driver::new();
    let mut stream = driver.stream();
    stream.write_all(b"CONNECT 9\nearly").unwrap();
    let request = driver.expect(op::REQUEST);
    driver.send(Ends { host: request.src_port, guest: 9 }, op::RESET);
    assert_eq!(stream.read(&mut [0; 8]).ok().unwrap_or_default(), 0);
}

#[test]
fn a_wrong_first_line_is_closed() {
    let mut driver = Driver::new();
    for line in [&b"GET / HTTP/1.1\n"[..], b"CONNECT x\n", &[b'x'; 100], b"\n"] {
        let mut stream = driver.stream();
        stream.write_all(line).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).ok().unwrap_or_default(), 0);
    }
    // One that comes in pieces is complete in the end.
    let mut stream = driver.stream();
    for piece in ["CONN", "ECT 5", "2\nabc"] {
        stream.write_all(piece.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    let request = driver.expect(op::REQUEST);
    driver.send(Ends { host: request.src_port, guest: 52 }, op::RESPONSE);
    assert_eq!(driver.receive().1, b"abc");
}

#[test]
fn the_guest_connects_to_the_host() {
    let mut driver = Driver::new();
    let (ends, mut stream) = driver.connect_from_guest();
    driver.send_data(ends, b"question");
    assert_eq!(read_exactly(&mut stream, 8), b"question");
    stream.write_all(b"answer").unwrap();
    assert_eq!(driver.receive().1, b"answer");
    let nobody = Ends { host: 9, guest: 1 };
    driver.send(nobody, op::REQUEST);
    assert_eq!(driver.expect(op::RESET).src_port, 9);
}

/// Both directions at once, through buffers of different sizes, one of which lies at the end of one region of memory.
#[test]
fn streams_arrive_as_they_were_sent() {
    const LENGTH: usize = 3 << 20;
    let mut driver = Driver::new();
    driver.buf_alloc = 64 << 10;
    let (ends, mut stream) = driver.connect_from_host();
    let (to_guest, to_host) = (noise(LENGTH, 1), noise(LENGTH, 2));
    let mut reader = stream.try_clone().unwrap();
    let sent = to_guest.clone();
    let writing = thread::spawn(move || stream.write_all(&sent).map(|()| stream));
    let reading = thread::spawn(move || read_exactly(&mut reader, LENGTH));

    let (mut received, mut sent, mut peer_fwd) = (Vec::new(), 0, 0_u32);
    while received.len() < LENGTH || sent < LENGTH {
        if let Some((header, data)) = driver.receive_now() {
            assert!([op::DATA, op::CREDIT_UPDATE, op::CREDIT_REQUEST].contains(&header.op), "{header:?}");
            received.extend(data);
            peer_fwd = header.fwd_cnt;
            // Taken out of the guest's buffer in steps, as a program does.
            if received.len() as u32 - driver.fwd_cnt > driver.buf_alloc / 2 || header.op == op::CREDIT_REQUEST {
                driver.fwd_cnt = received.len() as u32;
                driver.send(ends, op::CREDIT_UPDATE);
            }
            assert!(received.len() as u32 - driver.fwd_cnt <= driver.buf_alloc);
        }
        let credit = BUFFER - (sent as u32 - peer_fwd);
        let length = (LENGTH - sent).min(credit as usize).min(1 + sent % 30_000);
        if length > 0 {
            send_in_pieces(&mut driver, ends, &to_host[sent..sent + length]);
            sent += length;
        }
    }
    assert!(received == to_guest);
    assert!(reading.join().unwrap() == to_host);
    writing.join().unwrap().unwrap();
}

/// A header split in two, and data that begins in the same buffer and ends in the other region of memory.
fn send_in_pieces(driver: &mut Driver, ends: Ends, data: &[u8]) {
    let mut bytes = Header { length: data.len() as u32, ..driver.header(ends, op::DATA) }.bytes().to_vec();
    bytes.extend(data);
    let (start, rest) = bytes.split_at(10);
    let (middle, end) = rest.split_at((rest.len() / 2).min(0x1000));
    let at_end = MEMORY - middle.len() as u64;
    for (address, bytes) in [(SEND, start), (at_end, middle), (HIGH_MEMORY, end)] {
        driver.guest.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }
    let buffers = [(SEND, start), (at_end, middle), (HIGH_MEMORY, end)];
    driver.guest.request(TX, &buffers.map(|(address, bytes)| (address, bytes.len() as u32, 0)));
}

/// The host's program reads nothing: what the guest may send is bounded, and all of it arrives later.
#[test]
fn a_slow_reader_holds_the_guest_back() {
    let mut driver = Driver::new();
    let (ends, mut stream) = driver.connect_from_host();
    let data = noise(64 << 20, 3);
    let (mut sent, mut forwarded) = (0_usize, 0);
    while BUFFER as usize - (sent - forwarded) >= 0x4000 {
        driver.send_data(ends, &data[sent..sent + 0x4000]);
        sent += 0x4000;
        while let Some((header, _)) = driver.receive_now() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            forwarded = header.fwd_cnt as usize;
        }
        if BUFFER as usize - (sent - forwarded) < 0x4000 {
            driver.send(ends, op::CREDIT_REQUEST);
            forwarded = driver.expect(op::CREDIT_UPDATE).fwd_cnt as usize;
        }
    }
    assert!(sent < 8 << 20, "the kernel's socket buffer and ours: {sent}");
    let reading = thread::spawn(move || (read_exactly(&mut stream, sent), stream));
    while forwarded < sent {
        let before = forwarded;
        driver.send(ends, op::CREDIT_REQUEST);
        forwarded = driver.expect(op::CREDIT_UPDATE).fwd_cnt as usize;
        assert!(forwarded >= before);
    }
    let (received, _stream) = reading.join().unwrap();
    assert!(received == data[..sent]);
    // Room for nothing more was there, so more is a fault of the guest's.
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_loses_the_connection() {
    let mut driver = Driver::new();
    let (ends, mut stream) = driver.connect_from_host();
    let piece = vec![1; 0x8000];
    loop {
        driver.send_data(ends, &piece);
        if let Some((header, _)) = driver.receive_now()
            && header.op == op::RESET
        {
            break;
        }
    }
    let received = read_all(&mut stream);
    assert!(received.iter().all(|&byte| byte == 1) && received.len() < 8 << 20);
    driver.connect_from_host();
}

/// The guest's program reads nothing: it gets what it has room for, is asked once, and gets the rest when it has room again.
#[test]
fn a_guest_without_room_is_left_alone() {
    let mut driver = Driver::new();
    driver.buf_alloc = 1000;
    let (ends, mut stream) = driver.connect_from_host();
    stream.write_all(&noise(2500, 4)).unwrap();
    let (header, mut data) = driver.receive();
    assert_eq!((header.op, data.len()), (op::DATA, 1000));
    driver.expect(op::CREDIT_REQUEST);
    driver.send(ends, op::CREDIT_UPDATE);
    driver.expect_nothing();
    while data.len() < 2500 {
        driver.fwd_cnt = data.len() as u32;
        driver.send(ends, op::CREDIT_UPDATE);
        data.extend(driver.receive().1);
        if data.len() < 2500 {
            driver.expect(op::CREDIT_REQUEST);
        }
    }
    assert_eq!(data, noise(2500, 4));
    // Counts that cannot be mean no room.
    for (buf_alloc, fwd_cnt) in [(0, 0), (1000, u32::MAX), (u32::MAX, 2501), (100, 0)] {
        (driver.buf_alloc, driver.fwd_cnt) = (buf_alloc, fwd_cnt);
        driver.send(ends, op::CREDIT_UPDATE);
    }
    stream.write_all(b"x").unwrap();
    driver.expect(op::CREDIT_REQUEST);
    driver.expect_nothing();
}

#[test]
fn each_direction_closes_by_itself() {
    let mut driver = Driver::new();
    let (ends, mut stream) = driver.connect_from_host();
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(driver.receive().1, b"last words");
    assert_eq!(driver.expect(op::SHUTDOWN).flags, NO_SEND);
    driver.send_data(ends, b"still here");
    driver.send_shutdown(ends, NO_SEND);
    assert_eq!(read_all(&mut stream), b"still here");
    drop(stream);
    assert_eq!(driver.expect(op::SHUTDOWN).flags, NO_SEND | NO_RECEIVE);
    driver.send(ends, op::RESET);

    let (ends, mut stream) = driver.connect_from_guest();
    driver.send_shutdown(ends, NO_SEND);
    assert_eq!(read_all(&mut stream), b"");
    stream.write_all(b"still here").unwrap();
    assert_eq!(driver.receive().1, b"still here");
    driver.send_shutdown(ends, NO_RECEIVE);
    assert_eq!(driver.expect(op::RESET).dst_port, ends.guest);
}

#[test]
fn what_was_sent_before_an_end_arrives() {
    let mut driver = Driver::new();
    for confirmed in [true, false] {
        let (ends, mut stream) = driver.connect_from_host();
        let data = noise(0x1_0000, 5);
        // More than the kernel takes, so that some of it waits in the device.
        let mut sent = 0;
        let mut waits = false;
        while !waits {
            driver.send_data(ends, &data);
            sent += data.len();
            driver.send(ends, op::CREDIT_REQUEST);
            let mut header = driver.receive().0;
            while let Some((next, _)) = driver.receive_now() {
                header = next;
            }
            waits = (header.fwd_cnt as usize) < sent;
        }
        driver.send_shutdown(ends, NO_SEND | NO_RECEIVE);
        driver.expect_nothing();
        if !confirmed {
            driver.send(ends, op::RESET);
        }
        let received = read_all(&mut stream);
        assert!(received.len() == sent && received.chunks(data.len()).all(|piece| piece == data));
        if confirmed {
            driver.expect(op::RESET);
        }
        driver.expect_nothing();
    }
}

#[test]
fn the_host_hangs_up() {
    let mut driver = Driver::new();
    let (ends, mut stream) = driver.connect_from_host();
    stream.write_all(b"bye").unwrap();
    drop(stream);
    assert_eq!(driver.receive().1, b"bye");
    driver.expect_hang_up();
    // Until the guest has confirmed, its data is taken and forgotten.
    for _ in 0..20 {
        driver.send_data(ends, &[0; 0x4000]);
    }
    let mut forwarded = 0;
    while let Some((header, _)) = driver.receive_now() {
        assert_eq!(header.op, op::CREDIT_UPDATE);
        forwarded = header.fwd_cnt;
    }
    assert!(forwarded > 0x8000);
    driver.send_shutdown(ends, NO_SEND | NO_RECEIVE);
    driver.expect(op::RESET);
    // Before the guest has answered, there is no connection to shut down.
    let mut stream = driver.stream();
    stream.write_all(b"CONNECT 1\n").unwrap();
    driver.expect(op::REQUEST);
    drop(stream);
    assert_eq!(driver.expect(op::RESET).dst_port, 1);
}

#[test]
fn packets_that_lie_are_refused_and_others_go_on() {
    let mut driver = Driver::new();
    let (good, mut good_stream) = driver.connect_from_host();
    let unknown = Ends { host: 1, guest: 1 };
    for wrong in [op::RESPONSE, op::DATA, op::SHUTDOWN, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 0, 8, u16::MAX] {
        driver.send(unknown, wrong);
        assert_eq!(driver.expect(op::RESET).src_port, 1);
    }
    driver.send(unknown, op::RESET);
    // Another type of socket, or another host than this, has no connections.
    driver.send_packet(Header { kind: 2, ..driver.header(good, op::REQUEST) }, &[]);
    assert_eq!(driver.expect(op::RESET).kind, 2);
    driver.send_packet(Header { dst_cid: 9, ..driver.header(good, op::DATA) }, &[]);
    assert_eq!(driver.expect(op::RESET).src_cid, 9);
    driver.send_packet(Header { src_cid: 9, ..driver.header(good, op::RESET) }, &[]);
    driver.guest.request(TX, &[(SEND, HEADER as u32 - 1, 0)]);
    driver.guest.request(TX, &[(SEND, HEADER as u32, WRITE)]);
    driver.expect_nothing();
    for case in 0..5 {
        let (ends, mut stream) = driver.connect_from_host();
        match case {
            0 => driver.send_packet(Header { length: 101, ..driver.header(ends, op::DATA) }, &[0; 100]),
            1 => driver.send_packet(Header { length: u32::MAX, ..driver.header(ends, op::DATA) }, &[0; 100]),
            2 => driver.send(ends, op::RESPONSE),
            3 => driver.send(ends, op::REQUEST),
            _ => driver.send(ends, 77),
        }
        assert_eq!(driver.expect(op::RESET).src_port, ends.host);
        assert_eq!(read_all(&mut stream), b"");
    }
    // A length below that of the buffers is the packet's.
    driver.send_packet(Header { length: 2, ..driver.header(good, op::DATA) }, b"good");
    assert_eq!(read_exactly(&mut good_stream, 2), b"go");
}

#[test]
fn a_buffer_without_room_for_data_needs_a_reset() {
    let mut driver = Driver::new();
    driver.guest.start();
    driver.guest.descriptor(RX, 0, (RECEIVE, 20, WRITE | NEXT, 1));
    driver.guest.descriptor(RX, 1, (RECEIVE, 24, WRITE, 0));
    driver.guest.publish(RX, 0);
    driver.guest.kick(RX);
    driver.send(Ends { host: 1, guest: 1 }, op::DATA);
    driver.guest.wait_needs_reset();
    driver.start();
    driver.connect_from_host();
}

#[test]
fn without_buffers_nothing_is_lost_and_answers_are_bounded() {
    let mut driver = Driver::new();
    let (ends, mut stream) = driver.connect_from_host();
    driver.guest.start();
    assert_eq!(read_all(&mut stream), b"", "a reset closes all connections");
    let mut stream = driver.stream();
    stream.write_all(b"CONNECT 52\n").unwrap();
    for _ in 0..1000 {
        driver.send(ends, op::DATA);
    }
    for head in 0..16 {
        driver.give(head);
    }
    let mut refused = 0;
    let request = loop {
        let (header, _) = driver.receive();
        match header.op {
            op::RESET => refused += 1,
            _ => break header,
        }
    };
    assert!((1..1000).contains(&refused), "{refused}");
    assert_eq!(request.op, op::REQUEST);
    driver.send(Ends { host: request.src_port, guest: 52 }, op::RESPONSE);
    assert_eq!(read_line(&mut stream), format!("OK {}\n", request.src_port));
}

#[test]
fn connections_are_limited_and_room_is_used_again() {
    let mut driver = Driver::new();
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| driver.stream()).collect();
    let mut late = driver.stream();
    late.write_all(b"CONNECT 52\n").unwrap();
    driver.expect_nothing();
    // The guest gets no more either.
    let _listener = UnixListener::bind(driver.path(Some(7))).unwrap();
    driver.send(Ends { host: 7, guest: 7 }, op::REQUEST);
    driver.expect(op::RESET);
    streams.pop();
    driver.expect(op::REQUEST);
    drop(streams);
    for _ in 0..2000 {
        driver.connect_from_host_and_leave();
    }
    driver.send(Ends { host: 7, guest: 7 }, op::REQUEST);
    driver.expect(op::RESPONSE);
}

impl Driver {
    fn connect_from_host_and_leave(&mut self) {
        let (ends, stream) = self.connect_from_host();
        drop(stream);
        self.expect_hang_up();
        self.send(ends, op::RESET);
    }
}

#[test]
fn a_program_gets_lines_through() {
    let mut driver = Driver::new();
    let (ends, stream) = driver.connect_from_host();
    let mut lines = BufReader::new(stream);
    for line in ["one\n", "two\n"] {
        driver.send_data(ends, line.as_bytes());
        let mut read = String::new();
        lines.read_line(&mut read).unwrap();
        assert_eq!(read, line);
    }
}

#[test]
fn options_that_cannot_be_are_refused() {
    let error = |device: &str| open(&KIND.kind.parse(device).unwrap()).err().unwrap().to_string();
    assert_eq!(error("vsock"), "It needs `uds=PATH`, the unix socket where the host connects");
    let range = "is not in 3-4294967294";
    assert_eq!(error("vsock,cid=2,uds=x"), format!("The guest's context identifier `cid=2` {range}"));
    assert_eq!(error("vsock,cid=4G,uds=x"), format!("The guest's context identifier `cid=4294967296` {range}"));
}
