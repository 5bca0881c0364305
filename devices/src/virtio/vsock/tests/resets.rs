//! Resets of single queues, and buffers that are just large enough.

use super::*;

impl Driver {
    /// Resets a queue and sets it up again, with all buffers if it is for packets to the guest.
    fn renew_queue(&mut self, queue: usize) {
        self.guest.renew_queue(queue);
        if queue == RX {
            (0..16).for_each(|head| self.give(head));
        }
    }

    /// Gives buffers of this size only.
    fn start_with_buffers_of(&mut self, size: u32) {
        self.guest.start();
        for head in 0..16 {
            self.guest.descriptor(RX, head, (RECEIVE + u64::from(head) * 0x1400, size, WRITE, 0));
            self.guest.publish(RX, head);
        }
        self.guest.kick(RX);
    }

    /// The header in the next of those.
    #[track_caller]
    fn expect_used(&mut self, op: u16) {
        let (head, length) = self.guest.wait_used(RX);
        let bytes = self.guest.bytes(RECEIVE + u64::from(head) * 0x1400, HEADER);
        let header = Header::parse(&bytes.try_into().unwrap());
        assert_eq!((header.op, length as usize), (op, HEADER));
    }
}

/// Connections of the guest's and of the host's, each queue alone, so often that a lost buffer or place would show.
#[test]
fn a_reset_of_one_queue_loses_no_buffer_and_ends_connections_by_a_message() {
    let mut driver = Driver::new();
    for round in 0..1000 {
        let queue = round % 2;
        let (ends, mut stream) = if round % 4 < 2 { driver.connect_from_guest() } else { driver.connect_from_host() };
        driver.send_data(ends, b"before");
        assert_eq!(read_exactly(&mut stream, 6), b"before");
        driver.renew_queue(queue);
        let told = driver.expect(op::RESET);
        assert_eq!((told.src_port, told.dst_port), (ends.host, ends.guest), "round {round}");
        assert_eq!(read_all(&mut stream), b"");
    }
}

#[test]
fn the_message_of_an_end_does_not_wait_for_the_queue_that_was_reset() {
    let mut driver = Driver::new();
    let (ends, _stream) = driver.connect_from_host();
    driver.guest.reset_queue(TX);
    assert_eq!(driver.expect(op::RESET).src_port, ends.host);
}

#[test]
fn a_reset_of_the_event_queue_ends_nothing() {
    let mut driver = Driver::new();
    let (ends, mut stream) = driver.connect_from_host();
    for _ in 0..1000 {
        driver.renew_queue(2);
    }
    driver.send_data(ends, b"after");
    assert_eq!(read_exactly(&mut stream, 5), b"after");
    driver.expect_nothing();
}

/// The guest has more to be told than refusals may wait for it.
#[test]
fn every_connection_that_ends_is_told_of() {
    let mut driver = Driver::new();
    driver.guest.start();
    let listener = UnixListener::bind(driver.path(Some(1024))).unwrap();
    let mut streams = Vec::new();
    for guest in 0..400 {
        driver.send(Ends { host: 1024, guest }, op::REQUEST);
        streams.push(listener.accept().unwrap().0);
    }
    driver.guest.reset_queue(TX);
    (0..16).for_each(|head| driver.give(head));
    let mut told: Vec<_> = (0..400).map(|_| driver.expect(op::RESET).dst_port).collect();
    told.sort_unstable();
    assert!(told.iter().copied().eq(0..400));
}

/// A program of the host that comes before a driver does, or while a queue is reset, is not turned away.
#[test]
fn who_waits_for_the_guest_outlives_resets() {
    let mut driver = Driver::new();
    driver.guest.start();
    let mut stream = driver.stream();
    stream.write_all(b"CONNECT 52\n").unwrap();
    thread::sleep(Duration::from_millis(20));
    driver.renew_queue(TX);
    driver.guest.write(register::STATUS, 0);
    driver.start();
    let request = driver.expect(op::REQUEST);
    driver.send(Ends { host: request.src_port, guest: 52 }, op::RESPONSE);
    assert_eq!(read_line(&mut stream), format!("OK {}\n", request.src_port));
}

#[test]
fn a_new_driver_is_told_nothing_of_connections_before_it() {
    let mut driver = Driver::new();
    let (_, mut stream) = driver.connect_from_host();
    driver.start();
    assert_eq!(read_all(&mut stream), b"");
    driver.expect_nothing();
    driver.connect_from_guest();
}

#[test]
fn a_buffer_of_a_header_is_enough_for_a_packet_without_data() {
    let mut driver = Driver::new();
    driver.start_with_buffers_of(HEADER as u32);
    driver.send(Ends { host: 9, guest: 1 }, op::DATA);
    driver.expect_used(op::RESET);
    let ends = Ends { host: 1024, guest: 40_000 };
    let listener = UnixListener::bind(driver.path(Some(ends.host))).unwrap();
    driver.send(ends, op::REQUEST);
    driver.expect_used(op::RESPONSE);
    let (mut stream, _) = listener.accept().unwrap();
    driver.send_data(ends, b"data");
    assert_eq!(read_exactly(&mut stream, 4), b"data");
    driver.send(ends, op::CREDIT_REQUEST);
    driver.expect_used(op::CREDIT_UPDATE);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    driver.expect_used(op::SHUTDOWN);
    assert_eq!(driver.guest.read(register::STATUS) & 64, 0);
}

#[test]
fn data_for_a_buffer_of_a_header_needs_a_reset() {
    let mut driver = Driver::new();
    driver.start_with_buffers_of(HEADER as u32);
    let ends = Ends { host: 1024, guest: 40_000 };
    let listener = UnixListener::bind(driver.path(Some(ends.host))).unwrap();
    driver.send(ends, op::REQUEST);
    driver.expect_used(op::RESPONSE);
    listener.accept().unwrap().0.write_all(b"data").unwrap();
    driver.guest.wait_needs_reset();
    driver.start();
    driver.connect_from_host();
}
