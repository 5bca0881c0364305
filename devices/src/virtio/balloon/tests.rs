use std::time::Duration;

use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::bus::BusDevice as _;
use crate::virtio::config::make_from;
use crate::virtio::testing::{BUFFERS, Guest, HIGH_MEMORY, MEMORY, WRITE, register};

/// Pages that the tests give away lie here.
const PAGES: u64 = BUFFERS + 0x1_0000;
const REPORT: usize = 2;

fn guest(device: &str) -> Guest {
    let mut guest = Guest::new(make_from(device).unwrap());
    guest.start();
    guest
}

fn fill(guest: &Guest, address: u64, pages: u64) {
    guest.memory.write_slice(&vec![0x55; (pages * PAGE) as usize], GuestAddress(address)).unwrap();
}

/// For each page, whether it still is as `fill` left it; it must be zero otherwise.
fn kept(guest: &Guest, address: u64, pages: u64) -> Vec<bool> {
    let bytes = guest.bytes(address, (pages * PAGE) as usize);
    let kept = bytes.chunks(PAGE as usize).map(|page| {
        assert!(page.iter().all(|&byte| byte == page[0]) && [0, 0x55].contains(&page[0]));
        page[0] != 0
    });
    kept.collect()
}

/// Sends page frame numbers.
fn send(guest: &mut Guest, queue: usize, frames: &[u32]) {
    let bytes: Vec<_> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
    guest.memory.write_slice(&bytes, GuestAddress(BUFFERS)).unwrap();
    assert_eq!(guest.request(queue, &[(BUFFERS, bytes.len() as u32, 0)]), 0);
}

fn frame(address: u64) -> u32 {
    (address / PAGE) as u32
}

#[test]
fn pages_of_the_balloon_go_back_to_the_host() {
    let mut guest = guest("balloon");
    fill(&guest, PAGES, 8);
    fill(&guest, HIGH_MEMORY, 2);
    let first = frame(PAGES);
    send(&mut guest, INFLATE, &[first + 6, first + 1, first + 2, first + 1, frame(HIGH_MEMORY + PAGE)]);
    assert_eq!(kept(&guest, PAGES, 8), [true, false, false, true, true, true, false, true]);
    assert_eq!(kept(&guest, HIGH_MEMORY, 2), [true, false]);
    send(&mut guest, DEFLATE, &[first + 1, first + 2]);
    fill(&guest, PAGES, 8);
    assert_eq!(kept(&guest, PAGES, 8), [true; 8]);
}

#[test]
fn page_numbers_may_lie_across_buffers() {
    let mut guest = guest("balloon");
    fill(&guest, PAGES, 2);
    let [a, b] = [frame(PAGES), frame(PAGES + PAGE)].map(u32::to_le_bytes);
    guest.memory.write_slice(&a[..3], GuestAddress(BUFFERS)).unwrap();
    guest.memory.write_slice(&[a[3], b[0], b[1], b[2], b[3], 1], GuestAddress(BUFFERS + 64)).unwrap();
    guest.request(INFLATE, &[(BUFFERS, 3, 0), (BUFFERS + 64, 6, 0)]);
    assert_eq!(kept(&guest, PAGES, 2), [false; 2]);
}

#[test]
fn pages_that_the_guest_does_not_have_are_skipped() {
    let mut guest = guest("balloon");
    fill(&guest, PAGES, 2);
    let gap = [frame(MEMORY), frame(HIGH_MEMORY) - 1, frame(HIGH_MEMORY + MEMORY)];
    for wrong in [u32::MAX, u32::MAX - 1, 1 << 31, gap[0], gap[1], gap[2]] {
        for queue in [INFLATE, DEFLATE] {
            send(&mut guest, queue, &[wrong, frame(PAGES)]);
        }
        assert_eq!(kept(&guest, PAGES, 2), [false, true]);
        fill(&guest, PAGES, 1);
    }
}

/// A list without an end means bounded work, and one without room for a number none.
#[test]
fn lists_of_any_length_are_answered() {
    let mut guest = guest("balloon");
    fill(&guest, PAGES, 1);
    for length in [1, 3, 0x8_0000] {
        let buffers = vec![(BUFFERS, length, 0); if length > 3 { 16 } else { 1 }];
        assert_eq!(guest.request(INFLATE, &buffers), 0);
        assert_eq!(guest.request(DEFLATE, &buffers), 0);
        assert_eq!(guest.request(REPORT, &buffers), 0);
    }
    assert_eq!(guest.request(INFLATE, &[(PAGES, 4096, WRITE)]), 0);
    assert_eq!(kept(&guest, PAGES, 1), [true]);
}

#[test]
fn reported_blocks_go_back_to_the_host_by_whole_pages() {
    let mut guest = guest("balloon");
    fill(&guest, PAGES, 8);
    let page = PAGE as u32;
    guest.request(REPORT, &[(PAGES, 2 * page, WRITE), (PAGES + 3 * PAGE + 1, 3 * page, WRITE)]);
    assert_eq!(kept(&guest, PAGES, 8), [false, false, true, true, false, false, true, true]);
    fill(&guest, PAGES, 8);
    assert_eq!(kept(&guest, PAGES, 8), [true; 8]);
    guest.request(REPORT, &[(PAGES, 8 * page, 0)]);
    assert_eq!(kept(&guest, PAGES, 8), [true; 8], "a block to read is none to write");
}

#[test]
fn poisoned_pages_keep_what_they_hold() {
    let mut guest = guest("balloon");
    for (poison, keeps) in [(0x5555_5555, true), (0, false)] {
        guest.write(register::CONFIG + POISON as u64, poison);
        assert_eq!(guest.read(register::CONFIG + POISON as u64), poison);
        fill(&guest, PAGES, 2);
        guest.request(REPORT, &[(PAGES, 2 * PAGE as u32, WRITE)]);
        assert_eq!(kept(&guest, PAGES, 2), [keeps; 2]);
    }
    // A driver that does not know of poison has none, whatever it wrote.
    guest.write(register::CONFIG + POISON as u64, 1);
    let features = guest.offered() & !(1 << PAGE_POISON);
    guest.start_with(features & !(1 << 29));
    fill(&guest, PAGES, 1);
    guest.request(REPORT, &[(PAGES, PAGE as u32, WRITE)]);
    assert_eq!(kept(&guest, PAGES, 1), [false]);
}

#[test]
fn configuration_holds_what_is_wished_and_what_is() {
    let mut guest = guest("balloon,size=256M");
    let actual = register::CONFIG + ACTUAL as u64;
    assert_eq!([guest.read(register::CONFIG), guest.read(actual)], [65536, 0]);
    for value in [7, u32::MAX] {
        guest.write(actual, value);
        assert_eq!(guest.read(actual), value);
    }
    for offset in [0, 8, 16, 0xE00] {
        let before = guest.read(register::CONFIG + offset);
        guest.write(register::CONFIG + offset, 0x1234_5678);
        assert_eq!(guest.read(register::CONFIG + offset), before);
    }
    guest.mmio.write(actual, &[1, 2]);
    assert_eq!(guest.read(actual), u32::MAX);
}

#[test]
fn options_choose_features() {
    let features = |device| guest(device).offered() & 0xFF_FFFF;
    assert_eq!(features("balloon"), 1 << 2 | 1 << 4 | 1 << 5);
    assert_eq!(features("balloon,oom=deflate"), 1 << 2 | 1 << 4 | 1 << 5);
    assert_eq!(features("balloon,oom=keep,stats=5"), 1 << 1 | 1 << 4 | 1 << 5);
}

#[test]
fn a_balloon_has_a_largest_size() {
    let error = make_from("balloon,size=16T").err().unwrap();
    assert_eq!(error.to_string(), "A balloon of 17592186044416 bytes is larger than 17592186040320");
}

#[test]
fn statistics_are_asked_for_and_the_next_queue_is_for_reports() {
    let mut guest = guest("balloon,stats=1");
    let statistics = [[5, 0, 1, 0, 0, 0, 0, 0, 0, 0], [77, 0, 1, 0, 0, 0, 0, 0, 0, 0]].concat();
    guest.memory.write_slice(&statistics, GuestAddress(BUFFERS)).unwrap();
    // Each is given back to ask for the next, the last ones being as long as they can be.
    for length in [20, 1, 0x8_0000, 20] {
        guest.descriptor(2, 0, (BUFFERS, length, 0, 0));
        guest.publish(2, 0);
        guest.kick(2);
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(guest.poll_used(2), None);
        fill(&guest, PAGES, 1);
        guest.request(3, &[(PAGES, PAGE as u32, WRITE)]);
        assert_eq!(kept(&guest, PAGES, 1), [false]);
        assert_eq!(guest.wait_used(2), (0, 0));
    }
}

#[test]
fn a_driver_with_two_buffers_of_statistics_gets_the_first_back() {
    let mut guest = guest("balloon,stats=1000");
    for head in 0..3 {
        guest.descriptor(2, head, (BUFFERS, 20, 0, 0));
        guest.publish(2, head);
    }
    guest.kick(2);
    assert_eq!([guest.wait_used(2), guest.wait_used(2)], [(0, 0), (1, 0)]);
    // After a reset, nothing is held.
    guest.start();
    guest.descriptor(2, 2, (BUFFERS, 20, 0, 0));
    guest.publish(2, 2);
    guest.descriptor(2, 0, (BUFFERS, 20, 0, 0));
    guest.publish(2, 0);
    guest.kick(2);
    assert_eq!(guest.wait_used(2), (2, 0));
}

#[test]
fn a_reset_of_one_queue_leaves_the_others_alone() {
    let mut guest = guest("balloon,stats=1000");
    guest.descriptor(2, 0, (BUFFERS, 20, 0, 0));
    guest.publish(2, 0);
    guest.kick(2);
    for round in 0..1000 {
        guest.renew_queue([0, 1, 3][round % 3]);
        fill(&guest, PAGES, 1);
        send(&mut guest, INFLATE, &[frame(PAGES)]);
        assert_eq!(kept(&guest, PAGES, 1), [false]);
        send(&mut guest, DEFLATE, &[frame(PAGES)]);
        fill(&guest, PAGES, 1);
        guest.request(3, &[(PAGES, PAGE as u32, WRITE)]);
        assert_eq!(kept(&guest, PAGES, 1), [false]);
    }
    // The buffer for statistics is still held: another one sends it back.
    assert_eq!(guest.poll_used(2), None);
    guest.descriptor(2, 1, (BUFFERS, 20, 0, 0));
    guest.publish(2, 1);
    guest.kick(2);
    assert_eq!(guest.wait_used(2), (0, 0));
    // What is held goes with its queue.
    guest.renew_queue(2);
    guest.descriptor(2, 0, (BUFFERS, 20, 0, 0));
    guest.publish(2, 0);
    guest.kick(2);
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(guest.poll_used(2), None);
}

/// Another driver may come, and must not have its reports ignored for what the last one filled its pages with.
#[test]
fn a_reset_forgets_what_the_driver_said() {
    let mut guest = guest("balloon");
    let (actual, poison) = (register::CONFIG + ACTUAL as u64, register::CONFIG + POISON as u64);
    guest.write(actual, 7);
    guest.write(poison, 0x5555_5555);
    guest.start();
    assert_eq!([guest.read(actual), guest.read(poison)], [0, 0]);
    fill(&guest, PAGES, 1);
    guest.request(REPORT, &[(PAGES, PAGE as u32, WRITE)]);
    assert_eq!(kept(&guest, PAGES, 1), [false]);
}
