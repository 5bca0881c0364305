//! The transport against drivers, honest or not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::interrupt::IrqLine;
use crate::virtio::testing::{
    BUFFERS, Guest, HIGH_MEMORY, INDIRECT, MEMORY, NEXT, Reverser, WRITE, register as r, rings,
};

const FEATURES: u64 = 1 << 32;
const EVENT_INDEX: u64 = 1 << 29;
const RESET: u64 = 1 << 40;

fn guest() -> Guest {
    Guest::new(Box::new(Reverser::new()))
}

fn started() -> Guest {
    let mut guest = guest();
    guest.start();
    guest
}

/// The device answers a request.
#[track_caller]
fn check_works(guest: &mut Guest) {
    guest.memory.write_slice(b"stressed", GuestAddress(BUFFERS)).unwrap();
    assert_eq!(guest.request(0, &[(BUFFERS, 8, 0), (BUFFERS + 64, 8, WRITE)]), 8);
    assert_eq!(guest.bytes(BUFFERS + 64, 8), b"desserts");
}

/// What a driver does to queue 0 puts the device into NEEDS_RESET, with an interrupt, and a reset brings it back.
#[track_caller]
fn breaks(act: impl FnOnce(&mut Guest)) {
    let mut guest = started();
    act(&mut guest);
    guest.kick(0);
    guest.wait_needs_reset();
    guest.wait(|guest| guest.read(r::INTERRUPT_STATUS) & 2 != 0);
    assert_eq!(guest.poll_used(0), None);
    guest.start();
    check_works(&mut guest);
}

#[test]
fn registers_tell_what_the_device_is() {
    let mut guest = guest();
    assert_eq!([0, 4, 8].map(|register| guest.read(register)), [0x7472_6976, 2, 42]);
    assert_eq!(guest.offered(), 0b101 | 1 << 28 | EVENT_INDEX | FEATURES | RESET);
    guest.write(r::DEVICE_FEATURES_SELECT, 2);
    assert_eq!(guest.read(r::DEVICE_FEATURES), 0);
    guest.write(0xAC, 0);
    assert_eq!([0xB0, 0xB4, 0xB8, 0xBC].map(|register| guest.read(register)), [u32::MAX; 4]);
    guest.write(r::QUEUE_SELECT, 1);
    assert_eq!(guest.read(r::QUEUE_SIZE_MAX), 16);
}

#[test]
fn the_status_goes_step_by_step() {
    let mut guest = guest();
    for premature in [4, 8, 15 & !3, 64] {
        guest.write(r::STATUS, premature);
        assert_eq!(guest.read(r::STATUS), 0, "{premature}");
    }
    guest.write(r::STATUS, 2);
    assert_eq!(guest.read(r::STATUS), 2, "a driver need not say that it noticed the device");
    guest.write(r::STATUS, 0);
    assert_eq!(guest.negotiate(FEATURES), 11);
    guest.write(r::STATUS, 1);
    assert_eq!(guest.read(r::STATUS), 11, "no step is taken back");
    guest.write(r::DRIVER_FEATURES_SELECT, 0);
    guest.write(r::DRIVER_FEATURES, u32::MAX);
    guest.driver_ok();
    assert_eq!(guest.read(r::STATUS), 15);
    guest.write(r::STATUS, 0x8F);
    guest.write(r::STATUS, 0xF);
    assert_eq!(guest.read(r::STATUS), 0x8F, "only a reset follows FAILED");
    guest.write(r::STATUS, 0);
    assert_eq!(guest.read(r::STATUS), 0);
}

#[test]
fn features_that_are_not_offered_or_legacy_are_refused() {
    let mut guest = guest();
    assert_eq!(guest.negotiate(FEATURES | 0b101), 11);
    assert_eq!(guest.negotiate(FEATURES | 0b10), 3);
    assert_eq!(guest.negotiate(FEATURES | 1 << 63), 3);
    assert_eq!(guest.negotiate(0b101), 3);
    guest.driver_ok();
    assert_eq!(guest.read(r::STATUS), 3, "nothing follows from refused features");
}

#[test]
fn requests_are_answered_with_an_interrupt() {
    for features in [FEATURES, FEATURES | EVENT_INDEX] {
        let mut guest = guest();
        guest.start_with(features);
        for _ in 0..100 {
            check_works(&mut guest);
            guest.wait(|guest| guest.read(r::INTERRUPT_STATUS) == 1);
            guest.write(r::INTERRUPT_ACK, 1);
            assert_eq!(guest.read(r::INTERRUPT_STATUS), 0);
            assert!(guest.irq.eventfd().read().unwrap() > 0);
            // The driver of the event index wants the next one as well.
            let [_, available, _] = rings(0);
            let used = u16::from_le_bytes(guest.bytes(rings(0)[2] + 2, 2).try_into().unwrap());
            guest.memory.write_obj(used, GuestAddress(available + 4 + 2 * 16)).unwrap();
        }
    }
}

#[test]
fn a_driver_that_wants_no_interrupt_gets_none() {
    let mut guest = started();
    guest.memory.write_obj(1_u16, GuestAddress(rings(0)[1])).unwrap();
    for _ in 0..10 {
        check_works(&mut guest);
    }
    assert_eq!(guest.read(r::INTERRUPT_STATUS), 0);
}

#[test]
fn queues_that_do_not_exist_read_zero_and_take_nothing() {
    let mut guest = guest();
    guest.negotiate(FEATURES);
    for queue in [2, 0xFFFF, u32::MAX] {
        guest.write(r::QUEUE_SELECT, queue);
        for register in (0x34..0xA8).step_by(4).filter(|&register| !matches!(register, 0x60 | 0x70)) {
            guest.write(register, u32::MAX);
            assert_eq!(guest.read(register), 0, "{register:#x} of queue {queue}");
        }
    }
    guest.start();
    guest.kick(2);
    guest.write(r::NOTIFY, u32::MAX);
    check_works(&mut guest);
}

#[test]
fn other_widths_and_offsets_are_ignored() {
    let mut guest = started();
    for (offset, length) in [(r::STATUS, 1), (r::STATUS, 2), (r::STATUS, 8), (0x71, 4), (0xFD, 4), (r::STATUS, 0)] {
        guest.mmio.write(offset, &vec![0; length]);
        let mut data = vec![0x55; length];
        guest.mmio.read(offset, &mut data);
        assert_eq!(data, vec![0; length], "{length} bytes at {offset:#x}");
    }
    assert_eq!(guest.read(r::STATUS), 15);
}

#[test]
fn configuration_space_has_any_width() {
    let mut guest = guest();
    for length in [1, 2, 4, 8] {
        let mut data = vec![0; length];
        guest.mmio.read(r::CONFIG, &mut data);
        assert_eq!(data, b"reverser"[..length]);
    }
    guest.mmio.write(r::CONFIG, b"too soon");
    assert_eq!(guest.read(r::CONFIG).to_le_bytes(), *b"reve");
    guest.start();
    guest.mmio.write(r::CONFIG, b"in time.");
    assert_eq!(guest.read(r::CONFIG + 4).to_le_bytes(), *b"ime.");
}

#[test]
fn queue_registers_are_closed_while_the_queue_is_ready() {
    let mut guest = started();
    for size in [0, 32768] {
        guest.write(r::QUEUE_SELECT, 0);
        guest.write(r::QUEUE_SIZE, size);
        guest.write(r::DESCRIPTORS, u32::MAX);
        guest.write(r::QUEUE_READY, 1);
        check_works(&mut guest);
    }
}

#[test]
fn rings_outside_memory_or_in_each_other_are_not_taken() {
    let mut guest = guest();
    guest.negotiate(FEATURES);
    let [descriptors, available, used] = rings(0);
    let unfit = [
        (16, 0xFEC0_1000, available, used),
        (16, descriptors, MEMORY, used),
        (16, descriptors, available, MEMORY - 8),
        (16, descriptors, available, HIGH_MEMORY - 8),
        (16, descriptors, u64::MAX - 7, used),
        (16, descriptors, descriptors + 8, used),
        (16, descriptors, available, available + 4),
        (16, descriptors + 1, available, used),
        (16, descriptors, available + 1, used),
        (16, descriptors, available, used + 2),
        (0, descriptors, available, used),
        (3, descriptors, available, used),
        (128, descriptors, available, used),
        (16, descriptors, 0, used),
    ];
    for (size, descriptors, available, used) in unfit {
        let ready = guest.set_up_rings(0, size, descriptors, available, used);
        assert!(!ready, "{size} {descriptors:#x} {available:#x} {used:#x}");
    }
    guest.driver_ok();
    guest.kick(0);
    assert_eq!(guest.read(r::STATUS), 15, "a device without queues does nothing");
    guest.start();
    check_works(&mut guest);
}

#[test]
fn kicks_before_the_driver_is_ready_are_ignored() {
    let mut guest = guest();
    guest.kick(0);
    guest.negotiate(FEATURES);
    guest.kick(0);
    assert!(guest.set_up_queue(0, 16));
    guest.kick(0);
    guest.start();
    check_works(&mut guest);
    guest.write(r::STATUS, 0);
    guest.kick(0);
    guest.start();
    check_works(&mut guest);
}

#[test]
fn what_was_available_before_the_driver_was_ready_is_served() {
    let mut guest = guest();
    guest.negotiate(FEATURES);
    assert!(guest.set_up_queue(0, 16));
    guest.descriptor(0, 0, (BUFFERS, 8, WRITE, 0));
    guest.publish(0, 0);
    guest.driver_ok();
    assert_eq!(guest.wait_used(0), (0, 0));
}

#[test]
fn buffers_may_lie_anywhere_and_in_an_indirect_table() {
    let mut guest = started();
    guest.memory.write_slice(b"stressed", GuestAddress(HIGH_MEMORY)).unwrap();
    let table = BUFFERS + 0x100;
    guest.write_descriptor(table, (HIGH_MEMORY, 3, NEXT, 1));
    guest.write_descriptor(table + 16, (HIGH_MEMORY + 3, 5, NEXT, 2));
    guest.write_descriptor(table + 32, (BUFFERS, 2, NEXT | WRITE, 3));
    guest.write_descriptor(table + 48, (BUFFERS + 2, 100, WRITE, 0));
    assert_eq!(guest.request(0, &[(table, 64, INDIRECT)]), 8);
    assert_eq!(guest.bytes(BUFFERS, 8), b"desserts");
}

#[test]
fn chains_that_do_not_end_break_the_device() {
    breaks(|guest| {
        guest.descriptor(0, 0, (BUFFERS, 8, NEXT, 0));
        guest.publish(0, 0);
    });
    breaks(|guest| {
        guest.descriptor(0, 0, (BUFFERS, 8, NEXT, 16));
        guest.publish(0, 0);
    });
    breaks(|guest| guest.publish(0, 16));
}

#[test]
fn indirect_tables_that_cannot_be_used_break_the_device() {
    let table = BUFFERS + 0x100;
    // Empty, no multiple of a descriptor, of absurd size, outside memory.
    for (address, length) in [(table, 0), (table, 24), (table, 0xFFFF_FFF0), (MEMORY, 16), (u64::MAX - 15, 32)] {
        breaks(|guest| {
            guest.descriptor(0, 0, (address, length, INDIRECT, 0));
            guest.publish(0, 0);
        });
    }
    // In another one.
    breaks(|guest| {
        guest.write_descriptor(table, (table + 16, 16, INDIRECT, 0));
        guest.write_descriptor(table + 16, (BUFFERS, 8, 0, 0));
        guest.descriptor(0, 0, (table, 16, INDIRECT, 0));
        guest.publish(0, 0);
    });
    // Longer than the queue.
    breaks(|guest| {
        for index in 0..17_u16 {
            let flags = if index < 16 { NEXT } else { 0 };
            guest.write_descriptor(table + 16 * u64::from(index), (BUFFERS, 8, flags, index + 1));
        }
        guest.descriptor(0, 0, (table, 17 * 16, INDIRECT, 0));
        guest.publish(0, 0);
    });
}

#[test]
fn buffers_that_are_no_memory_break_the_device() {
    let unfit =
        [(BUFFERS, 0), (BUFFERS, u32::MAX), (MEMORY - 4, 8), (HIGH_MEMORY - 4, 8), (0xFEC0_0000, 4), (u64::MAX - 3, 8)];
    for (address, length) in unfit {
        breaks(|guest| {
            guest.descriptor(0, 0, (address, length, WRITE, 0));
            guest.publish(0, 0);
        });
    }
    breaks(|guest| {
        guest.descriptor(0, 0, (BUFFERS, 8, WRITE | NEXT, 1));
        guest.descriptor(0, 1, (BUFFERS, 8, 0, 0));
        guest.publish(0, 0);
    });
}

#[test]
fn an_index_that_jumps_breaks_the_device() {
    breaks(|guest| guest.set_available(0, 1000));
    breaks(|guest| guest.set_available(0, 17));
    breaks(|guest| guest.set_available(0, u16::MAX));
}

#[test]
fn a_head_that_the_device_has_is_refused() {
    let mut guest = started();
    guest.descriptor(1, 3, (BUFFERS, 8, WRITE, 0));
    guest.publish(1, 3);
    guest.kick(1);
    check_works(&mut guest);
    assert_eq!(guest.read(r::STATUS), 15);
    guest.publish(1, 3);
    guest.kick(1);
    guest.wait_needs_reset();
    guest.start();
    check_works(&mut guest);
}

#[test]
fn a_driver_that_never_stops_is_served_a_queue_at_a_time() {
    let mut guest = started();
    // Another CPU advances the index as fast as it can, always just inside what a queue may hold.
    guest.descriptor(0, 0, (BUFFERS, 8, 0, 0));
    let ([_, available, used], memory) = (rings(0), Arc::clone(&guest.memory));
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let flood = thread::spawn(move || {
        while !flag.load(Ordering::Relaxed) {
            let used: u16 = memory.load(GuestAddress(used + 2), Ordering::Acquire).unwrap();
            memory.store(used.wrapping_add(1), GuestAddress(available + 2), Ordering::Release).unwrap();
        }
    });
    guest.kick(0);
    thread::sleep(Duration::from_millis(200));
    // The worker still listens to the transport.
    guest.write(r::STATUS, 0);
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    guest.start();
    check_works(&mut guest);
}

#[test]
fn a_reset_queue_starts_anew() {
    let mut guest = guest();
    guest.start_with(FEATURES | RESET);
    check_works(&mut guest);
    guest.write(r::QUEUE_SELECT, 0);
    guest.write(r::QUEUE_RESET, 1);
    assert_eq!(guest.read(r::QUEUE_RESET), 0);
    assert_eq!(guest.read(r::QUEUE_READY), 0);
    guest.kick(0);
    assert!(guest.set_up_queue(0, 8));
    check_works(&mut guest);
    assert_eq!(guest.read(r::STATUS), 15);
}

#[test]
fn without_the_feature_a_queue_can_only_be_stopped() {
    let mut guest = guest();
    guest.start_with(FEATURES);
    guest.write(r::QUEUE_SELECT, 0);
    guest.write(r::QUEUE_RESET, 1);
    check_works(&mut guest);
    guest.write(r::QUEUE_SELECT, 0);
    guest.write(r::QUEUE_READY, 0);
    assert_eq!(guest.read(r::QUEUE_READY), 0);
    assert!(!guest.set_up_queue(0, 16));
}

#[test]
fn nothing_is_written_after_a_reset() {
    let mut guest = guest();
    for _ in 0..200 {
        guest.start();
        for head in 0..16 {
            guest.descriptor(0, head, (BUFFERS, 8, WRITE, 0));
            guest.publish(0, head);
        }
        guest.kick(0);
        guest.write(r::STATUS, 0);
        let used = rings(0)[2];
        guest.memory.write_slice(&[0xA5; 0x100], GuestAddress(used)).unwrap();
        thread::sleep(Duration::from_micros(200));
        assert_eq!(guest.bytes(used, 0x100), [0xA5; 0x100]);
        assert_eq!(guest.read(r::INTERRUPT_STATUS), 0);
    }
}

#[test]
fn a_reset_does_not_wait_for_lanes_that_are_gone() {
    let irq = IrqLine::new().unwrap();
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap());
    let (mut mmio, runners) = Mmio::new(Box::new(Reverser::new()), memory, irq).unwrap();
    drop(runners);
    for status in [1_u32, 3] {
        mmio.write(r::STATUS, &status.to_le_bytes());
    }
    mmio.write(r::DRIVER_FEATURES_SELECT, &1_u32.to_le_bytes());
    mmio.write(r::DRIVER_FEATURES, &1_u32.to_le_bytes());
    for status in [11_u32, 15, 0] {
        mmio.write(r::STATUS, &status.to_le_bytes());
    }
}

proptest::proptest! {
    #[test]
    fn no_sequence_of_accesses_panics(
        accesses in proptest::collection::vec((0..0x110_u64, 0..=8_usize, 0..=0x1F_u32, proptest::bool::ANY), 1..300),
    ) {
        let mut guest = guest();
        guest.negotiate(FEATURES | RESET);
        for (offset, length, value, write) in accesses {
            // Mostly whole registers, whose values are often bits of the status or page-aligned addresses.
            let (offset, length) = if length < 6 { (offset & !3, 4) } else { (offset, length) };
            let value = if matches!(offset, 0x80..=0xA7) { value << 12 } else { value };
            let mut data = [0; 8];
            data[..4].copy_from_slice(&value.to_le_bytes());
            if write {
                guest.mmio.write(offset, &data[..length]);
            } else {
                guest.mmio.read(offset, &mut data[..length]);
            }
        }
        guest.start();
        check_works(&mut guest);
    }
}
