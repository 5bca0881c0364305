//! Resets of single queues, and sizes that change while a driver reads them.

use std::thread;

use super::*;
use crate::bus::BusDevice as _;

const GENERATION: u64 = 0xFC;

/// A driver reads a field at a time, and takes them for one size if the generation is the same before and after (section 2.5.1).
#[test]
fn size_and_generation_change_together() {
    const LAST: u16 = 30_000;
    let (mut guest, handle) = guest(&[], &Screen::with_room(SCREEN));
    handle.resize(Size { columns: 1, rows: 1 });
    guest.start();
    let resizing = thread::spawn(move || {
        (1..=LAST).for_each(|number| handle.resize(Size { columns: number, rows: number }));
    });
    let field = |guest: &mut Guest, offset| {
        let mut bytes = [0; 2];
        guest.mmio.read(register::CONFIG + offset, &mut bytes);
        u16::from_le_bytes(bytes)
    };
    let mut seen = 0;
    guest.wait(|guest| {
        for _ in 0..1000 {
            let before = guest.read(GENERATION);
            let (columns, rows) = (field(guest, 0), field(guest, 2));
            if guest.read(GENERATION) == before {
                assert_eq!(columns, rows, "half of a change, in generation {before}");
                seen = columns;
            }
        }
        seen == LAST
    });
    resizing.join().unwrap();
}

/// The console's own queues and those of messages, each alone.
#[test]
fn a_reset_of_one_queue_loses_no_byte_and_no_buffer() {
    let screen = Screen::with_room(SCREEN);
    let (mut guest, handle) = guest(&[], &screen);
    start(&mut guest);
    let mut printed = Vec::new();
    for round in 0..1000_u32 {
        let text = round.to_le_bytes();
        let queue = round as usize % 4;
        send(&mut guest, 1, b".");
        printed.push(b'.');
        // More than the guest has room for: the device holds the rest.
        guest.descriptor(0, 0, (buffer(0, 0), 1, WRITE, 0));
        guest.publish(0, 0);
        guest.kick(0);
        assert_eq!(handle.input(&text), 4);
        assert_eq!(received(&mut guest, 0), text[..1]);
        guest.renew_queue(queue);
        send(&mut guest, 1, &text);
        printed.extend(text);
        // With the queue, the port may have ceased to be used; now it is again, and the rest comes.
        offer_room(&mut guest, 0, 1);
        assert_eq!(received(&mut guest, 0), text[1..], "round {round}");
        if queue == 2 {
            // It still has messages of before, or is as empty as before.
            offer_room(&mut guest, 2, 16);
            tell(&mut guest, 0, PORT_READY, 1);
            assert_eq!(received(&mut guest, 2), message(0, CONSOLE, 1));
            assert_eq!(received(&mut guest, 2), message(0, OPEN, 1));
        }
    }
    assert_eq!(screen.bytes(), printed);
}

/// What the other end has no room for is the guest's again when its queue goes, and the next thing that it sends comes out.
#[test]
fn output_that_waits_goes_with_its_queue() {
    let screen = Screen::with_room(0);
    let (mut guest, _) = guest(&[], &screen);
    start(&mut guest);
    for _ in 0..1000 {
        guest.descriptor(1, 0, (BUFFERS, 4, 0, 0));
        guest.publish(1, 0);
        guest.kick(1);
        guest.renew_queue(1);
    }
    screen.make_room(SCREEN);
    send(&mut guest, 1, b"after");
    assert_eq!(screen.bytes(), b"after");
}
