//! Data: all of it, in its order, no more than there is room for, up to the end of either direction.

use std::io::{BufRead as _, BufReader};
use std::net::Shutdown;

use super::*;
use crate::virtio::testing::{HIGH_MEMORY, MEMORY};

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
