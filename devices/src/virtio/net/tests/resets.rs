//! Resets of single queues, and frames that pass by no limit.

use super::*;

const PLACE: u64 = BUFFERS + 0x4_0000;

#[test]
fn a_reset_of_one_queue_loses_no_frame_and_touches_no_buffer_afterwards() {
    let mut net = Net::started("");
    for round in 0..1000_u32 {
        let sent = frame(60, round as u8);
        if round % 2 == 0 {
            // A buffer that the device holds when the queue goes.
            net.offer(0, BUFFERS, 0x1000);
            net.guest.kick(RX);
            net.guest.reset_queue(RX);
            net.guest.write_bytes(BUFFERS, &[0xEE; 0x100]);
            net.send([0; HEADER], &sent);
            net.transmit_from(PLACE, &sent);
            assert_eq!(net.received().1, sent, "the other queue goes on");
            assert!(net.guest.set_up_queue(RX, 16));
            net.offer(1, PLACE, 0x1000);
            net.guest.kick(RX);
            assert_eq!(net.guest.wait_used(RX), (1, 72));
            assert_eq!(net.guest.bytes(PLACE + HEADER as u64, 60), sent);
            assert_eq!(net.guest.bytes(BUFFERS, 0x100), [0xEE; 0x100]);
        } else {
            net.guest.renew_queue(TX);
            net.transmit_from(PLACE, &sent);
            assert_eq!(net.received().1, sent);
        }
    }
}

#[test]
fn a_reset_of_the_control_queue_leaves_the_pairs_as_they_are() {
    let mut net = Net::started(",queues=2");
    assert_eq!(net.command(4, &[4, 0, 2, 0]), VIRTIO_NET_OK);
    for round in 0..1000 {
        net.guest.renew_queue(4);
        assert_eq!(net.attached(), [true; 2]);
        // The other pair's queues, one after the other.
        net.guest.renew_queue(2 + round % 2);
    }
    assert_eq!(net.command(4, &[4, 0, 1, 0]), VIRTIO_NET_OK);
    assert_eq!(net.attached(), [true, false]);
}

#[test]
fn a_fault_in_one_pair_stops_the_others_until_a_reset() {
    let mut net = Net::started(",queues=2");
    net.guest.descriptor(2, 0, (BUFFERS, HEADER as u32 - 1, WRITE, 0));
    net.guest.publish(2, 0);
    net.guest.kick(2);
    net.wires[1].1.send(&[&[0; HEADER][..], &frame(100, 3)].concat()).unwrap();
    net.guest.wait_needs_reset();
    net.guest.write_bytes(BUFFERS, &[&[0; HEADER][..], &frame(60, 1)].concat());
    net.guest.descriptor(TX, 0, (BUFFERS, 72, 0, 0));
    net.guest.publish(TX, 0);
    net.guest.kick(TX);
    thread::sleep(Duration::from_millis(50));
    assert!(net.nothing_received());
    assert_eq!(net.guest.poll_used(TX), None);
    net.guest.start();
    net.works();
}

/// Frames that the device drops cost the host as much as others.
#[test]
fn what_is_dropped_counts_against_the_rate() {
    // Too short, and with a header that was not negotiated; too long.
    for (header, length) in [([0; HEADER], 5), ([0xFF; HEADER], 1012), ([0; HEADER], 70_000)] {
        let mut net = Net::started(",tx-rate=100K");
        let started = Instant::now();
        let count = if length == 5 { 30 * 60 } else { 30 };
        for _ in 0..count {
            net.transmit(header, &frame(length, 1));
        }
        assert!(net.nothing_received());
        assert!(started.elapsed() >= Duration::from_millis(180), "{length}: {:?}", started.elapsed());
    }
}

impl Net {
    /// The guest sends a frame from this place.
    fn transmit_from(&mut self, place: u64, frame: &[u8]) {
        self.guest.write_bytes(place, &[&[0; HEADER], frame].concat());
        assert_eq!(self.guest.request(TX, &[(place, (HEADER + frame.len()) as u32, 0)]), 0);
    }
}
