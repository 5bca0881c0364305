mod hostile;
mod resets;
mod streams;

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use vm_memory::{Bytes as _, GuestAddress};

use super::connection::BUFFER;
use super::packet::{HEADER, HOST_CID, Header, NO_RECEIVE, NO_SEND, STREAM, op};
use super::*;
use crate::virtio::config::make_from;
use crate::virtio::testing::{BUFFERS, Guest, WRITE, register};

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
        let guest = Guest::new(make_from(&device).unwrap());
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

#[test]
fn options_that_cannot_be_are_refused() {
    let error = |device: &str| make_from(device).err().unwrap().to_string();
    assert_eq!(error("vsock"), "It needs `uds=PATH`, the unix socket where the host connects");
    let range = "is not in 3-4294967294";
    assert_eq!(error("vsock,cid=2,uds=x"), format!("The guest's context identifier `cid=2` {range}"));
    assert_eq!(error("vsock,cid=4294967296,uds=x"), format!("The guest's context identifier `cid=4294967296` {range}"));
}
