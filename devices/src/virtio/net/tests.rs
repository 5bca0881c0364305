mod resets;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use virtio_bindings::virtio_net::{VIRTIO_NET_ERR, VIRTIO_NET_OK};

use super::link::Link;
use super::*;
use crate::virtio::config::VirtioConfig;
use crate::virtio::testing::{BUFFERS, Guest, INDIRECT, WRITE, register};

const HEADER: usize = header::SIZE;
const MTU: u16 = 1500;
const RX: usize = 0;
const TX: usize = 1;

/// Stands for a tap: what the host sends and gets is at the other end of a pair of sockets.
struct Wire {
    file: File,
    offloads: AtomicU64,
    attached: AtomicBool,
}

impl Link for Wire {
    fn file(&self) -> &File {
        &self.file
    }

    fn set_offloads(&self, features: u64) -> io::Result<()> {
        self.offloads.store(features, Ordering::Release);
        Ok(())
    }

    fn attach(&self, on: bool) -> io::Result<()> {
        self.attached.store(on, Ordering::Release);
        Ok(())
    }
}

/// A guest, and for each queue pair its wire with the host's end of it.
struct Net {
    guest: Guest,
    wires: Vec<(Arc<Wire>, UnixDatagram)>,
}

fn net(keys: &str) -> Net {
    let Ok(VirtioConfig::Net(config)) = VirtioConfig::parse(&format!("net,tap=tap0{keys}")) else { panic!("{keys}") };
    let wires: Vec<_> = (0..config.queues).map(|_| wire()).collect();
    let links = wires.iter().map(|(wire, _)| Arc::clone(wire) as Arc<dyn Link>).collect();
    let guest = Guest::new(Box::new(super::Net::new(&config, MTU, links).unwrap()));
    Net { guest, wires }
}

fn wire() -> (Arc<Wire>, UnixDatagram) {
    let (device, host) = UnixDatagram::pair().unwrap();
    device.set_nonblocking(true).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let file = File::from(OwnedFd::from(device));
    (Arc::new(Wire { file, offloads: AtomicU64::new(u64::MAX), attached: AtomicBool::new(true) }), host)
}

fn frame(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed)).collect()
}

impl Net {
    fn started(keys: &str) -> Self {
        let mut net = net(keys);
        net.guest.start();
        net
    }

    fn started_without(keys: &str, bits: &[u32]) -> Self {
        let mut net = net(keys);
        let all = net.guest.offered() & !(1 << 29);
        net.guest.start_with(bits.iter().fold(all, |features, bit| features & !(1 << bit)));
        net
    }

    /// The host sends a frame to the guest, with the kernel's header.
    fn send(&self, header: [u8; HEADER], frame: &[u8]) {
        self.wires[0].1.send(&[&header, frame].concat()).unwrap();
    }

    /// What the guest sent: header and frame.
    fn received(&self) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = vec![0; 100_000];
        let count = self.wires[0].1.recv(&mut bytes).unwrap();
        bytes.truncate(count);
        let frame = bytes.split_off(HEADER);
        (bytes, frame)
    }

    fn nothing_received(&self) -> bool {
        let host = &self.wires[0].1;
        host.set_nonblocking(true).unwrap();
        let result = host.recv(&mut [0; 16]);
        host.set_nonblocking(false).unwrap();
        result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Gives the device a receive buffer of one descriptor.
    fn offer(&mut self, head: u16, address: u64, length: u32) {
        self.guest.descriptor(RX, head, (address, length, WRITE, 0));
        self.guest.publish(RX, head);
    }

    /// The guest sends header and frame.
    fn transmit(&mut self, header: [u8; HEADER], frame: &[u8]) {
        self.guest.write_bytes(BUFFERS, &[&header, frame].concat());
        assert_eq!(self.guest.request(TX, &[(BUFFERS, (HEADER + frame.len()) as u32, 0)]), 0);
    }

    fn works(&mut self) {
        let sent = frame(60, 7);
        self.transmit([0; HEADER], &sent);
        assert_eq!(self.received(), (vec![0; HEADER], sent));
        self.receives(60);
    }

    /// The guest gets a frame that fits into one buffer.
    fn receives(&mut self, length: usize) {
        let sent = frame(length, 9);
        self.offer(0, BUFFERS, 0x1_0000);
        self.guest.kick(RX);
        self.send([0; HEADER], &sent);
        assert_eq!(self.guest.wait_used(RX), (0, (HEADER + length) as u32));
        let bytes = self.guest.bytes(BUFFERS, HEADER + length);
        assert_eq!(bytes[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(bytes[HEADER..], sent);
    }
}

#[test]
fn frames_pass_both_ways() {
    for event_index in [0, 1 << 29] {
        let mut net = net("");
        let features = net.guest.offered() & !(1 << 29) | event_index;
        net.guest.start_with(features);
        net.works();
        net.receives(1514);
        net.transmit([0; HEADER], &frame(1514, 3));
        assert_eq!(net.received().1, frame(1514, 3));
    }
}

#[test]
fn a_frame_of_64_kib_is_spread_over_buffers_that_come_back_at_once() {
    let mut net = Net::started("");
    let header = [1, 1, 54, 0, 0x78, 5, 34, 0, 16, 0, 0, 0];
    let sent = frame(65_000, 1);
    for head in 0..16 {
        net.offer(head, BUFFERS + u64::from(head) * 0x2000, 0x1800);
    }
    net.guest.kick(RX);
    net.send(header, &sent);
    let (head, first) = net.guest.wait_used(RX);
    assert_eq!((head, first), (0, 0x1800));
    let bytes = net.guest.bytes(BUFFERS, 0x1800);
    assert_eq!((&bytes[..10], &bytes[10..HEADER]), (&header[..10], &[11, 0][..]));
    let mut got = bytes[HEADER..].to_vec();
    for expected in 1..11 {
        let (head, length) = net.guest.poll_used(RX).expect("all parts are there with the first");
        assert_eq!(head, expected);
        got.extend(net.guest.bytes(BUFFERS + u64::from(head) * 0x2000, length as usize));
    }
    assert_eq!(got, sent);
    assert_eq!(net.guest.poll_used(RX), None);

    // The five buffers that are left are for the next frames.
    net.send([0; HEADER], &frame(60, 2));
    assert_eq!(net.guest.wait_used(RX), (11, 72));
}

#[test]
fn a_frame_for_which_there_is_no_room_is_lost_and_the_next_one_is_not() {
    for without in [&[][..], &[VIRTIO_NET_F_MRG_RXBUF]] {
        let mut net = Net::started_without("", without);
        net.offer(0, BUFFERS, 0x400);
        net.guest.kick(RX);
        net.send([0; HEADER], &frame(0x400 - HEADER + 1, 1));
        net.send([0; HEADER], &frame(0x400 - HEADER, 2));
        assert_eq!(net.guest.wait_used(RX), (0, 0x400), "{without:?}");
        assert_eq!(net.guest.bytes(BUFFERS + HEADER as u64, 0x400 - HEADER), frame(0x400 - HEADER, 2));
        assert_eq!(net.guest.bytes(BUFFERS + 0x400, 4), [0; 4]);
    }
}

#[test]
fn without_merging_a_frame_has_one_buffer_of_several_parts() {
    let mut net = Net::started_without("", &[VIRTIO_NET_F_MRG_RXBUF]);
    net.guest.descriptor(RX, 0, (BUFFERS, 5, WRITE | 1, 1));
    net.guest.descriptor(RX, 1, (BUFFERS + 0x100, 20, WRITE | 1, 2));
    net.guest.descriptor(RX, 2, (BUFFERS + 0x200, 2000, WRITE, 0));
    net.guest.publish(RX, 0);
    net.offer(3, BUFFERS + 0x2000, 0x1000);
    net.guest.kick(RX);
    net.send([0; HEADER], &frame(100, 4));
    assert_eq!(net.guest.wait_used(RX), (0, 112));
    let mut bytes = net.guest.bytes(BUFFERS, 5);
    bytes.extend(net.guest.bytes(BUFFERS + 0x100, 20));
    bytes.extend(net.guest.bytes(BUFFERS + 0x200, 87));
    assert_eq!(bytes[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(bytes[HEADER..], frame(100, 4));
    assert_eq!(net.guest.poll_used(RX), None);
}

#[test]
fn a_flood_while_there_are_no_buffers_freezes_nothing() {
    let mut net = Net::started("");
    let host = net.wires[0].1.try_clone().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flood = thread::spawn(move || {
        let bytes = [&[0; HEADER][..], &frame(200, 5)].concat();
        let mut sent = 0_u64;
        while !stopped.load(Ordering::Acquire) {
            sent += u64::from(host.send(&bytes).is_ok());
        }
        sent
    });
    let mut got = 0_u64;
    for round in 0..50 {
        if round % 10 == 0 {
            // The wire is full, and the sender waits.
            thread::sleep(Duration::from_millis(20));
        }
        for head in 0..8 {
            net.offer(head, BUFFERS + u64::from(head) * 0x1000, 0x1000);
        }
        net.guest.kick(RX);
        for head in 0..8 {
            assert_eq!(net.guest.wait_used(RX), (head, 212));
            got += 1;
        }
    }
    stop.store(true, Ordering::Release);
    // What is still on its way.
    while !flood.is_finished() || got < 400 {
        net.offer(0, BUFFERS, 0x1000);
        net.guest.kick(RX);
        net.guest.wait_used(RX);
        got += 1;
    }
    assert!(flood.join().unwrap() >= got - 1);
}

#[test]
fn frames_from_a_lying_guest_stay_inside() {
    let mut net = Net::started("");
    let checksum = |start: u8, offset: u8| [1, 0, 0, 0, 0, 0, start, 0xFF, offset, 0, 0, 0];
    let lies: [[u8; HEADER]; 5] = [
        checksum(0xFF, 0),
        [1, 0, 0, 0, 0, 0, 59, 0, 0, 0, 0, 0],
        [1, 3, 0, 0, 5, 0, 34, 0, 16, 0, 0, 0],
        [1, 0x7F, 0, 0, 5, 0, 34, 0, 16, 0, 0, 0],
        [0, 1, 0, 0, 5, 0, 34, 0, 16, 0, 0, 0],
    ];
    for header in lies {
        net.transmit(header, &frame(60, 1));
    }
    assert!(net.nothing_received());
    // A frame's length: none, less than a header, no more than one, less than an Ethernet header, too much.
    for length in [1, 11, 12, 25, 12 + FRAME_MAX_32 + 1] {
        assert_eq!(net.guest.request(TX, &[(BUFFERS, length, 0)]), 0);
    }
    assert_eq!(net.guest.request(TX, &[(BUFFERS, 0x8_0000, 0); 16]), 0);
    // Only room to write.
    assert_eq!(net.guest.request(TX, &[(BUFFERS, 0x1000, WRITE)]), 0);
    assert!(net.nothing_received());
    net.transmit([1, 1, 54, 0, 5, 0, 34, 0, 16, 0, 99, 99], &frame(9000, 1));
    assert_eq!(net.received(), (vec![1, 1, 54, 0, 5, 0, 34, 0, 16, 0, 0, 0], frame(9000, 1)));
    net.works();
}

const FRAME_MAX_32: u32 = header::FRAME_MAX as u32;

#[test]
fn what_was_not_negotiated_does_not_pass() {
    let offloads = [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM];
    let mut net = Net::started_without("", &offloads);
    net.transmit([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], &frame(60, 1));
    assert!(net.nothing_received());
    net.offer(1, BUFFERS, 0x1000);
    net.guest.kick(RX);
    net.send([1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], &frame(60, 1));
    net.send([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &frame(61, 2));
    assert_eq!(net.guest.wait_used(RX), (1, 73));
    assert_eq!(net.guest.bytes(BUFFERS, HEADER), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    net.works();
}

#[test]
fn the_tap_is_told_what_the_driver_negotiated() {
    let mut net = net("");
    let offered = net.guest.offered();
    let segments = 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_TSO6 | 1 << VIRTIO_NET_F_GUEST_ECN;
    let checksum = 1 << VIRTIO_NET_F_GUEST_CSUM;
    for (features, expected) in [
        (offered, checksum | segments),
        (offered & !segments, checksum),
        // Segments need checksums.
        (offered & !checksum, 0),
        (1 << 32, 0),
        (offered, checksum | segments),
    ] {
        net.guest.start_with(features & !(1 << 29));
        let told = net.wires[0].0.offloads.load(Ordering::Acquire);
        assert_eq!(told & (checksum | segments), expected, "{features:#x}");
    }
}

#[test]
fn a_receive_buffer_without_room_for_a_header_is_a_fault() {
    for descriptor in [(BUFFERS, 11, WRITE, 0), (BUFFERS, 0x1000, 0, 0), (BUFFERS, 0x1000, INDIRECT, 0)] {
        let mut net = Net::started("");
        net.guest.descriptor(RX, 0, descriptor);
        net.guest.publish(RX, 0);
        net.guest.kick(RX);
        net.send([0; HEADER], &frame(60, 1));
        net.guest.wait_needs_reset();
        net.guest.start();
        // The first frame waited.
        net.offer(0, BUFFERS, 0x1000);
        net.guest.kick(RX);
        assert_eq!(net.guest.wait_used(RX), (0, 72));
        net.works();
    }
}

#[test]
fn buffers_in_tiny_parts_are_used_as_far_as_one_transfer_goes() {
    let mut net = Net::started("");
    for head in 0..16_u16 {
        // Tables of 16 parts of 12 bytes.
        let table = BUFFERS + 0x2_0000 + u64::from(head) * 0x100;
        for part in 0..16_u16 {
            let flags = WRITE | u16::from(part < 15);
            let address = BUFFERS + u64::from(head * 16 + part) * 16;
            net.guest.write_descriptor(table + 16 * u64::from(part), (address, 12, flags, part + 1));
        }
        net.guest.descriptor(RX, head, (table, 256, INDIRECT, 0));
        net.guest.publish(RX, head);
    }
    net.guest.kick(RX);
    net.send([0; HEADER], &frame(2000, 6));
    let mut total = 0;
    for head in 0..11 {
        let (used, length) = net.guest.wait_used(RX);
        assert_eq!(used, head);
        total += length;
    }
    assert_eq!((total, net.guest.poll_used(RX)), (2012, None));
}

#[test]
fn nothing_is_written_after_a_reset() {
    let mut net = Net::started("");
    let host = net.wires[0].1.try_clone().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flood = thread::spawn(move || {
        let bytes = [&[0; HEADER][..], &frame(500, 5)].concat();
        host.set_nonblocking(true).unwrap();
        while !stopped.load(Ordering::Acquire) {
            if host.send(&bytes).is_err() {
                thread::yield_now();
            }
        }
    });
    for _ in 0..300 {
        net.guest.start();
        for head in 0..8 {
            net.offer(head, BUFFERS + u64::from(head) * 0x1000, 0x1000);
        }
        net.guest.kick(RX);
        net.guest.write(register::STATUS, 0);
        let filler = vec![0xA5; 0x8000];
        net.guest.write_bytes(BUFFERS, &filler);
        thread::yield_now();
        assert!(net.guest.bytes(BUFFERS, 0x8000) == filler);
    }
    stop.store(true, Ordering::Release);
    flood.join().unwrap();
    net.guest.start();
    net.offer(0, BUFFERS, 0x1000);
    net.guest.kick(RX);
    net.guest.wait_used(RX);
}

#[test]
fn a_queue_that_was_reset_starts_anew() {
    let mut net = Net::started("");
    net.offer(0, BUFFERS, 0x1000);
    net.guest.kick(RX);
    net.send([0; HEADER], &frame(60, 1));
    net.guest.wait_used(RX);
    net.offer(1, BUFFERS, 0x1000);
    net.guest.kick(RX);
    net.guest.write(register::QUEUE_SELECT, RX as u32);
    net.guest.write(register::QUEUE_RESET, 1);
    assert!(net.guest.set_up_queue(RX, 16));
    net.receives(60);
}

#[test]
fn configuration_space_tells_what_the_device_is() {
    let mut net = net(",mac=02:11:22:33:44:55,queues=3");
    let config: Vec<u8> = (0..4).flat_map(|word| net.guest.read(register::CONFIG + 4 * word).to_le_bytes()).collect();
    assert_eq!(config, [2, 0x11, 0x22, 0x33, 0x44, 0x55, 1, 0, 3, 0, 0xDC, 5, 0, 0, 0, 0]);
    assert_eq!(net.guest.offered() & MULTI_QUEUE_FEATURES, MULTI_QUEUE_FEATURES);
    assert_eq!(super::tests::net("").guest.offered() & MULTI_QUEUE_FEATURES, 0);
}

impl Net {
    /// Sends a control command; returns the device's answer.
    fn command(&mut self, queue: usize, command: &[u8]) -> u32 {
        self.guest.write_bytes(BUFFERS, command);
        let buffers = [(BUFFERS, command.len() as u32, 0), (BUFFERS + 0x100, 1, WRITE)];
        assert_eq!(self.guest.request(queue, &buffers), 1);
        self.guest.bytes(BUFFERS + 0x100, 1)[0].into()
    }

    fn attached(&self) -> Vec<bool> {
        self.wires.iter().map(|(wire, _)| wire.attached.load(Ordering::Acquire)).collect()
    }
}

#[test]
fn the_driver_chooses_how_many_queue_pairs_it_uses() {
    let mut net = Net::started(",queues=3");
    let control = 6;
    assert_eq!(net.attached(), [true, false, false]);
    assert_eq!(net.command(control, &[4, 0, 3, 0]), VIRTIO_NET_OK);
    assert_eq!(net.attached(), [true; 3]);
    for wrong in [&[4, 0, 0, 0][..], &[4, 0, 4, 0], &[4, 0, 0xFF, 0xFF], &[4, 1, 2, 0], &[9, 0, 2, 0], &[4, 0, 2], &[4]]
    {
        assert_eq!(net.command(control, wrong), VIRTIO_NET_ERR, "{wrong:?}");
    }
    assert_eq!(net.attached(), [true; 3]);
    assert_eq!(net.command(control, &[4, 0, 2, 0]), VIRTIO_NET_OK);
    assert_eq!(net.attached(), [true, true, false]);
    // Without room for an answer, or without a command.
    assert_eq!(net.guest.request(control, &[(BUFFERS, 4, 0)]), 0);
    assert_eq!(net.guest.request(control, &[(BUFFERS, 4, WRITE)]), 1);

    // The second pair's frames.
    net.guest.descriptor(2, 0, (BUFFERS, 0x1000, WRITE, 0));
    net.guest.publish(2, 0);
    net.guest.kick(2);
    net.wires[1].1.send(&[&[0; HEADER][..], &frame(100, 3)].concat()).unwrap();
    assert_eq!(net.guest.wait_used(2), (0, 112));
    net.works();

    net.guest.start();
    assert_eq!(net.attached(), [true, false, false]);
}

#[test]
fn without_several_pairs_the_control_queue_is_the_third() {
    let mut net = Net::started_without(",queues=2", &[VIRTIO_NET_F_MQ]);
    assert_eq!(net.command(2, &[4, 0, 2, 0]), VIRTIO_NET_ERR);
    assert_eq!(net.attached(), [true, false]);
    net.works();
}

#[test]
fn a_rate_holds_each_direction_back() {
    let mut net = Net::started(",rx-rate=100K");
    let started = Instant::now();
    for _ in 0..30 {
        net.receives(1012);
    }
    // 30 KiB less the burst of 10 KiB and what is on credit at the end.
    assert!(started.elapsed() >= Duration::from_millis(180), "{:?}", started.elapsed());

    let mut net = Net::started(",tx-rate=100K");
    let started = Instant::now();
    for _ in 0..30 {
        net.transmit([0; HEADER], &frame(1012, 1));
        net.received();
    }
    assert!(started.elapsed() >= Duration::from_millis(180), "{:?}", started.elapsed());
}

#[test]
fn a_link_that_is_gone_is_down() {
    let mut net = Net::started("");
    net.works();
    let generation = net.guest.read(0xFC);
    let device = UnixDatagram::from(OwnedFd::from(net.wires[0].0.file.try_clone().unwrap()));
    device.shutdown(Shutdown::Both).unwrap();
    net.guest.wait(|guest| guest.read(register::CONFIG + 4) >> 16 == 0);
    net.guest.wait(|guest| guest.read(register::INTERRUPT_STATUS) & 2 != 0);
    assert_ne!(net.guest.read(0xFC), generation);
    // What the guest sends is lost, and it may go on.
    net.transmit([0; HEADER], &frame(60, 1));
}

/// What a driver, or the host's network, may do.
#[derive(Clone, Copy, Debug)]
enum Act {
    Describe(usize, u16, (u64, u32, u16, u16)),
    Publish(usize, u16),
    Jump(usize, u16),
    Kick(usize),
    Reset(usize),
    Send([u8; HEADER], usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let queue = 0..5_usize;
    let address =
        prop_oneof![8 => BUFFERS..BUFFERS + 0x1_0000, 1 => Just(0), 1 => Just(u64::MAX - 7), 1 => Just(0x10_0000 - 20)];
    let length = prop_oneof![4 => 0..3000_u32, 4 => 0..40_u32, 1 => Just(0x1_0000), 1 => Just(u32::MAX)];
    let flags = prop_oneof![3 => Just(0), 3 => Just(WRITE), 2 => Just(1), 2 => Just(WRITE | 1), 1 => Just(INDIRECT)];
    let descriptor = (address, length, flags, 0..17_u16);
    let act = prop_oneof![
        6 => (queue.clone(), 0..16_u16, descriptor).prop_map(|(queue, index, one)| Act::Describe(queue, index, one)),
        6 => (queue.clone(), 0..17_u16).prop_map(|(queue, head)| Act::Publish(queue, head)),
        1 => (queue.clone(), any::<u16>()).prop_map(|(queue, index)| Act::Jump(queue, index)),
        6 => queue.clone().prop_map(Act::Kick),
        1 => queue.prop_map(Act::Reset),
        4 => (any::<[u8; HEADER]>(), 0..3000_usize).prop_map(|(header, length)| Act::Send(header, length)),
    ];
    proptest::collection::vec(act, 1..60)
}

impl Net {
    fn act(&mut self, act: Act) {
        match act {
            Act::Describe(queue, index, descriptor) => self.guest.descriptor(queue, index, descriptor),
            Act::Publish(queue, head) => self.guest.publish(queue, head),
            Act::Jump(queue, index) => self.guest.set_available(queue, index),
            Act::Kick(queue) => self.guest.kick(queue),
            Act::Reset(queue) => {
                self.guest.write(register::QUEUE_SELECT, queue as u32);
                self.guest.write(register::QUEUE_RESET, 1);
                self.guest.set_up_queue(queue, 16);
            }
            Act::Send(header, length) => {
                // What has no room on the wire is lost.
                let _ = self.wires[0].1.send(&[&header[..], &frame(length, 0)].concat());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_driver_does_the_device_works_after_a_reset(features: u64, acts in acts()) {
        let mut net = net(",queues=2");
        let features = net.guest.offered() & (features | 1 << 32 | 1 << 40);
        net.guest.start_with(features);
        net.wires[0].1.set_nonblocking(true).unwrap();
        for act in acts {
            net.act(act);
        }

        net.guest.start();
        // What was on its way comes first.
        let mut got = [0; 4000];
        while net.wires[0].1.recv(&mut got).is_ok() {}
        net.wires[0].1.set_nonblocking(false).unwrap();
        net.transmit([0; HEADER], &frame(61, 3));
        prop_assert_eq!(net.received().1, frame(61, 3));
        net.send([0; HEADER], &frame(3333, 4));
        loop {
            net.offer(0, BUFFERS, 0x2000);
            net.guest.kick(RX);
            let (_, length) = net.guest.wait_used(RX);
            if length as usize == HEADER + 3333 {
                break;
            }
        }
        prop_assert_eq!(net.guest.bytes(BUFFERS + HEADER as u64, 3333), frame(3333, 4));
    }
}
