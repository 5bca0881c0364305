//! Guests that lie, and more of everything than there is room for.

use super::super::worker::CONNECTIONS;
use super::*;
use crate::virtio::testing::NEXT;

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
fn a_buffer_without_room_for_a_header_needs_a_reset() {
    let mut driver = Driver::new();
    driver.guest.start();
    driver.guest.descriptor(RX, 0, (RECEIVE, 20, WRITE | NEXT, 1));
    driver.guest.descriptor(RX, 1, (RECEIVE, HEADER as u32 - 21, WRITE, 0));
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
    driver.connect_and_leave(16);
    driver.send(Ends { host: 7, guest: 7 }, op::REQUEST);
    driver.expect(op::RESPONSE);
}

#[test]
fn a_hundred_thousand_connections_leave_nothing_behind() {
    let mut driver = Driver::new();
    for _ in 0..100_000 / 64 {
        driver.connect_and_leave(64);
    }
    // As many as there may be have room.
    let _streams: Vec<_> = (0..CONNECTIONS).map(|_| driver.connect_from_host()).collect();
}

impl Driver {
    /// So many programs of the host connect at once, and leave.
    fn connect_and_leave(&mut self, count: usize) {
        let streams: Vec<_> = (0..count).map(|_| self.stream()).collect();
        for mut stream in &streams {
            stream.write_all(b"CONNECT 52\n").unwrap();
        }
        let ends: Vec<_> =
            streams.iter().map(|_| Ends { host: self.expect(op::REQUEST).src_port, guest: GUEST_PORT }).collect();
        self.send_all(&ends, op::RESPONSE);
        for mut stream in streams {
            let mut answer = [0; 16];
            assert!(stream.read(&mut answer).unwrap() > 0 && answer.starts_with(b"OK "));
        }
        for _ in &ends {
            while self.expect(op::SHUTDOWN).flags != NO_SEND | NO_RECEIVE {}
        }
        self.send_all(&ends, op::RESET);
    }

    /// Sends headers, as many at a time as the queue has room for.
    fn send_all(&mut self, ends: &[Ends], op: u16) {
        for piece in ends.chunks(16) {
            for (head, &ends) in (0_u16..).zip(piece) {
                let address = SEND + 0x40 * u64::from(head);
                self.guest.write_bytes(address, &self.header(ends, op).bytes());
                self.guest.descriptor(TX, head, (address, HEADER as u32, 0, 0));
                self.guest.publish(TX, head);
            }
            self.guest.kick(TX);
            for _ in piece {
                self.guest.wait_used(TX);
            }
        }
    }
}
