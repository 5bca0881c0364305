//! Queues that are stopped alone, or all together.

use std::thread;
use std::time::Duration;

use super::*;

/// Has a queue read a sector to a place of its own, and does not wait.
fn send_read(guest: &mut Guest, queue: usize, sector: u64) {
    let (header, data) = (HEADER + 0x100 * queue as u64, DATA + 0x1000 * queue as u64);
    put_header(guest, header, IN, sector);
    guest.descriptor(queue, 0, (header, 16, NEXT, 1));
    guest.descriptor(queue, 1, (data, 512, NEXT | WRITE, 2));
    guest.descriptor(queue, 2, (header + 16, 1, WRITE, 0));
    guest.publish(queue, 0);
    guest.kick(queue);
}

fn expect_read(guest: &mut Guest, queue: usize, sector: u64) {
    assert_eq!(guest.wait_used(queue), (0, 513));
    assert_eq!(guest.bytes(DATA + 0x1000 * queue as u64, 512), [sector as u8; 512]);
}

#[test]
fn a_fault_in_one_queue_stops_the_device_until_it_is_reset() {
    for engine in ["", ",engine=threads"] {
        let mut machine = Machine::new(&format!("{engine},queues=3"));
        let guest = &mut machine.guest;
        guest.descriptor(1, 0, (HEADER, 15, 0, 0));
        guest.publish(1, 0);
        guest.kick(1);
        guest.wait_needs_reset();
        for queue in 0..3 {
            send_read(guest, queue, 7);
        }
        thread::sleep(Duration::from_millis(50));
        assert_eq!([0, 1, 2].map(|queue| guest.poll_used(queue)), [None; 3]);
        for queue in 0..3 {
            guest.reset_queue(queue);
            assert!(!guest.set_up_queue(queue, 16), "queue {queue} revives");
            guest.publish(queue, 0);
            guest.kick(queue);
        }
        thread::sleep(Duration::from_millis(50));
        assert_eq!([0, 1, 2].map(|queue| guest.poll_used(queue)), [None; 3]);
        assert_ne!(guest.read(r::STATUS) & 64, 0);
        guest.start();
        for queue in 0..3 {
            send_read(guest, queue, 9);
            expect_read(guest, queue, 9);
        }
    }
}

#[test]
fn a_reset_of_one_queue_leaves_the_others_alone() {
    for engine in ["", ",engine=threads"] {
        let mut machine = Machine::new(&format!("{engine},queues=2"));
        let guest = &mut machine.guest;
        for round in 0..1000 {
            let (reset, other) = (round % 2, 1 - round % 2);
            let sector = 1 + round as u64 % 50;
            send_read(guest, reset, sector);
            send_read(guest, other, sector);
            guest.reset_queue(reset);
            let mark = [0xEE; 512];
            put_bytes(guest, DATA + 0x1000 * reset as u64, &mark);
            expect_read(guest, other, sector);
            assert_eq!(guest.bytes(DATA + 0x1000 * reset as u64, 512), mark, "written after the reset");
            assert!(guest.set_up_queue(reset, 16));
            send_read(guest, reset, sector + 1);
            expect_read(guest, reset, sector + 1);
        }
    }
}
