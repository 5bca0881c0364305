use std::cell::OnceCell;
mod resets;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::*;
use crate::console::{ConsoleOutput, Consoles};
use crate::endpoint::Output;
use crate::virtio::config::VirtioConfig;
use crate::virtio::config::make_with;
use crate::virtio::testing::{BUFFERS, Guest, NEXT, WRITE, register};

/// A console's other end that has room for so many bytes, and takes its time for each offer.
#[derive(Clone)]
struct Screen(Arc<Mutex<(usize, Vec<u8>)>>, Duration);

impl Screen {
    fn with_room(room: usize) -> Self {
        Self(Arc::new(Mutex::new((room, Vec::new()))), Duration::ZERO)
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().1.clone()
    }

    fn make_room(&self, room: usize) {
        self.0.lock().unwrap().0 = room;
    }
}

impl Consoles for Screen {
    fn console(&self) -> Box<dyn ConsoleOutput> {
        Box::new(self.clone())
    }

    fn further(&self, name: &str, output: Output) -> Box<dyn ConsoleOutput> {
        Box::new(Further { name: name.to_owned(), output, screen: self.clone() })
    }
}

/// Prints to its own end, and with its name in front on the screen.
struct Further {
    name: String,
    output: Output,
    screen: Screen,
}

impl ConsoleOutput for Further {
    fn offer(&mut self, bytes: &[u8]) -> usize {
        self.screen.offer(&[self.name.as_bytes(), b": ", bytes].concat());
        self.output.try_write(bytes).unwrap()
    }
}

impl ConsoleOutput for Screen {
    fn offer(&mut self, bytes: &[u8]) -> usize {
        thread::sleep(self.1);
        let (room, taken) = &mut *self.0.lock().unwrap();
        let count = bytes.len().min(*room);
        *room -= count;
        taken.extend_from_slice(&bytes[..count]);
        count
    }
}

const SCREEN: usize = 1 << 20;

fn device(lines: &[&str]) -> Opened {
    device_with(lines, &OpenContext::default())
}

fn device_with(lines: &[&str], context: &OpenContext<'_>) -> Opened {
    let mut console = VirtioConfig::parse("console").unwrap();
    for line in lines {
        console.join(VirtioConfig::parse(&format!("console,{line}")).unwrap()).unwrap();
    }
    make_with(&console, context)
}

fn guest(lines: &[&str], screen: &Screen) -> (Guest, ConsoleHandle) {
    let console = OnceCell::new();
    let device = device_with(lines, &OpenContext { console: Some(&console), ..OpenContext::default() }).unwrap();
    let handle = console.into_inner().unwrap();
    handle.connect(Box::new(screen.clone()));
    (Guest::new(device), handle)
}

/// Where a queue's descriptor `index` has its buffer in these tests.
fn buffer(queue: usize, index: u16) -> u64 {
    BUFFERS + 0x4000 * queue as u64 + 0x400 * u64::from(index)
}

/// Gives the device room for messages.
fn offer_room(guest: &mut Guest, queue: usize, count: u16) {
    for index in 0..count {
        guest.descriptor(queue, index, (buffer(queue, index), 0x400, WRITE, 0));
        guest.publish(queue, index);
    }
    guest.kick(queue);
}

#[track_caller]
fn received(guest: &mut Guest, queue: usize) -> Vec<u8> {
    let (head, length) = guest.wait_used(queue);
    guest.bytes(buffer(queue, head as u16), length as usize)
}

fn send(guest: &mut Guest, queue: usize, bytes: &[u8]) {
    use vm_memory::{Bytes as _, GuestAddress};
    let at = BUFFERS + 0x7_0000;
    guest.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    assert_eq!(guest.request(queue, &[(at, bytes.len() as u32, 0)]), 0);
}

fn message(port: u32, event: u16, value: u16) -> Vec<u8> {
    [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat()
}

fn tell(guest: &mut Guest, port: u32, event: u16, value: u16) {
    send(guest, 3, &message(port, event, value));
}

const READY: u16 = 0;
const ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE: u16 = 4;
const RESIZE: u16 = 5;
const OPEN: u16 = 6;
const NAME: u16 = 7;

/// Starts as Linux does, up to the console's open port.
fn start(guest: &mut Guest) {
    guest.start();
    offer_room(guest, 2, 16);
    tell(guest, 0, READY, 1);
    assert_eq!(received(guest, 2), message(0, ADD, 1));
    tell(guest, 0, PORT_READY, 1);
    assert_eq!(received(guest, 2), message(0, CONSOLE, 1));
    assert_eq!(received(guest, 2), message(0, OPEN, 1));
    tell(guest, 0, OPEN, 1);
}

#[test]
fn what_the_guest_prints_appears() {
    let screen = Screen::with_room(SCREEN);
    let (mut guest, handle) = guest(&[], &screen);
    start(&mut guest);
    assert!(!handle.is_used());
    send(&mut guest, 1, b"Hello ");
    assert!(handle.is_used());
    send(&mut guest, 1, b"world");
    assert_eq!(screen.bytes(), b"Hello world");
    assert_eq!(guest.read(register::CONFIG + 4), 1, "ports");
}

#[test]
fn a_driver_without_control_messages_has_the_console() {
    let screen = Screen::with_room(SCREEN);
    let (mut guest, handle) = guest(&[], &screen);
    guest.start_with(1 << 32);
    send(&mut guest, 1, b"Hello");
    assert_eq!(screen.bytes(), b"Hello");
    offer_room(&mut guest, 0, 1);
    assert_eq!(handle.input(b"typed"), 5);
    assert_eq!(received(&mut guest, 0), b"typed");
}

#[test]
fn input_is_taken_once_the_guest_prints_and_no_more_than_it_can_hold() {
    let screen = Screen::with_room(SCREEN);
    let (mut guest, handle) = guest(&[], &screen);
    start(&mut guest);
    assert_eq!(handle.input(b"x"), 0);
    send(&mut guest, 1, b"login:");
    assert!(handle.room().read().is_ok(), "it is told that the console is used now");
    // Nobody reads: 4 KiB are held here, and 4 KiB for the port.
    let mut held = 0;
    guest.wait(|_| {
        held += handle.input(&[b'x'; 10_000]);
        held == 8192
    });
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(handle.input(b"x"), 0);
    offer_room(&mut guest, 0, 16);
    let mut got = 0;
    guest.wait(|guest| {
        got += guest.poll_used(0).map_or(0, |(_, length)| length);
        got == 8192
    });
    assert!(handle.room().read().is_ok());
    handle.input(b"late");
    // The rest of a buffer is not used for what comes later.
    assert_eq!(received(&mut guest, 0), b"late");

    guest.write(register::STATUS, 0);
    assert!(!handle.is_used() && handle.input(b"x") == 0);
    assert!(handle.room().read().is_ok(), "input is for another port now");
    start(&mut guest);
    send(&mut guest, 1, b"again");
    assert!(handle.is_used());
}

#[test]
fn input_that_the_driver_has_not_read_outlasts_it() {
    let screen = Screen::with_room(SCREEN);
    let (mut guest, handle) = guest(&[], &screen);
    // By a reset, and by closing the port.
    for ends in [|guest: &mut Guest| guest.write(register::STATUS, 0), |guest: &mut Guest| tell(guest, 0, OPEN, 0)] {
        start(&mut guest);
        send(&mut guest, 1, b"login:");
        assert_eq!(handle.input(b"typed "), 6);
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(handle.input(b"early"), 5);
        assert!(handle.take_back().is_empty(), "it is the guest's");
        ends(&mut guest);
        guest.wait(|_| !handle.is_used());
        assert_eq!(handle.take_back(), b"typed early");
        guest.write(register::STATUS, 0);
    }
    // Nobody took it back.
    start(&mut guest);
    send(&mut guest, 1, b"login:");
    handle.input(b"typed");
    guest.write(register::STATUS, 0);
    start(&mut guest);
    offer_room(&mut guest, 0, 1);
    send(&mut guest, 1, b"login:");
    assert_eq!(received(&mut guest, 0), b"typed");
}

#[test]
fn a_full_screen_holds_the_guest_back_and_nothing_else() {
    let screen = Screen::with_room(3);
    let (mut guest, _) = guest(&[], &screen);
    start(&mut guest);
    guest.write_bytes(BUFFERS + 0x6_8000, b"abcdef");
    guest.descriptor(1, 0, (BUFFERS + 0x6_8000, 6, 0, 0));
    guest.publish(1, 0);
    guest.kick(1);
    guest.wait(|_| screen.bytes() == b"abc");
    assert_eq!(guest.poll_used(1), None);
    // Control messages are served meanwhile.
    tell(&mut guest, 0, READY, 1);
    assert_eq!(received(&mut guest, 2), message(0, ADD, 1));
    screen.make_room(SCREEN);
    assert_eq!(guest.wait_used(1), (0, 0));
    assert_eq!(screen.bytes(), b"abcdef");
    // A reset in such a state lets go of the buffer.
    screen.make_room(0);
    guest.publish(1, 0);
    guest.kick(1);
    guest.write(register::STATUS, 0);
    screen.make_room(SCREEN);
    start(&mut guest);
    send(&mut guest, 1, b".");
    assert_eq!(screen.bytes(), b"abcdef.");
}

#[test]
fn the_guest_learns_the_terminals_size_and_its_changes() {
    let (mut guest, handle) = guest(&[], &Screen::with_room(SCREEN));
    assert_eq!(guest.offered() & 1, 0, "no size, no feature");
    handle.resize(Size { columns: 80, rows: 25 });
    assert_eq!(guest.offered() & 1, 1);
    guest.start();
    assert_eq!(guest.read(register::CONFIG), 0x19_0050);
    offer_room(&mut guest, 2, 16);
    tell(&mut guest, 0, READY, 1);
    tell(&mut guest, 0, PORT_READY, 1);
    let size = |columns: u16, rows: u16| {
        [message(0, RESIZE, 0), rows.to_le_bytes().into(), columns.to_le_bytes().into()].concat()
    };
    let expected = [message(0, ADD, 1), message(0, CONSOLE, 1), size(80, 25), message(0, OPEN, 1)];
    assert_eq!([(); 4].map(|()| received(&mut guest, 2)), expected);
    handle.resize(Size { columns: 132, rows: 43 });
    assert_eq!(received(&mut guest, 2), size(132, 43));
    assert_eq!(guest.read(register::CONFIG), 0x2B_0084);
    guest.wait(|guest| guest.read(register::INTERRUPT_STATUS) & 2 != 0);
}

#[test]
fn ports_have_names_and_ends_of_their_own() {
    let directory = tempfile::tempdir().unwrap();
    let [file, socket] = ["file", "socket"].map(|name| directory.path().join(name));
    let lines =
        [format!("name=log,file={}", file.display()), format!("name=org.example.agent,socket={}", socket.display())];
    let screen = Screen::with_room(SCREEN);
    let (mut guest, _) = guest(&lines.each_ref().map(String::as_str), &screen);
    guest.start();
    offer_room(&mut guest, 2, 16);
    tell(&mut guest, 0, READY, 1);
    for port in 0..3 {
        assert_eq!(received(&mut guest, 2), message(port, ADD, 1));
    }
    tell(&mut guest, 1, PORT_READY, 1);
    let name = |port, name: &str| [message(port, NAME, 1), name.into()].concat();
    assert_eq!(received(&mut guest, 2), name(1, "log"));
    assert_eq!(received(&mut guest, 2), message(1, OPEN, 1));
    tell(&mut guest, 2, PORT_READY, 1);
    assert_eq!(received(&mut guest, 2), name(2, "org.example.agent"));
    assert_eq!(received(&mut guest, 2), message(2, OPEN, 0), "nobody is there");

    tell(&mut guest, 1, OPEN, 1);
    send(&mut guest, 5, b"logged");
    assert_eq!(fs::read(&file).unwrap(), b"logged");

    let mut client = UnixStream::connect(&socket).unwrap();
    assert_eq!(received(&mut guest, 2), message(2, OPEN, 1));
    client.write_all(b"question").unwrap();
    offer_room(&mut guest, 6, 4);
    tell(&mut guest, 2, OPEN, 1);
    assert_eq!(received(&mut guest, 6), b"question");
    send(&mut guest, 7, b"answer");
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"answer");
    assert_eq!(screen.bytes(), b"log: logged", "a file is a console, a socket is none");
    drop(client);
    assert_eq!(received(&mut guest, 2), message(2, OPEN, 0));
}

#[test]
fn what_a_client_sent_outlasts_a_reset() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let (mut guest, _) = guest(&[&format!("name=agent,socket={}", socket.display())], &Screen::with_room(SCREEN));
    guest.start();
    tell(&mut guest, 1, OPEN, 1);
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"question").unwrap();
    // Time for the port to take it, for which the driver has no room.
    std::thread::sleep(std::time::Duration::from_millis(20));
    guest.write(register::STATUS, 0);
    guest.start();
    offer_room(&mut guest, 4, 4);
    tell(&mut guest, 1, OPEN, 1);
    assert_eq!(received(&mut guest, 4), b"question");
}

#[test]
fn wrong_ports_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let error = |lines: &[&str]| device(lines).err().unwrap().to_string();
    assert_eq!(error(&["pty"]), "A port needs a name, and what it is connected to");
    assert_eq!(error(&["name=a"]), "The port `a` needs one of file, socket and pty");
    assert_eq!(error(&["name=a,pty,file=x"]), "The port `a` needs one of file, socket and pty");
    assert!(error(&["name=a/b,pty"]).ends_with("not `a/b`"));
    let file = format!("name=a,file={}", path("a"));
    assert_eq!(error(&[&file, &file]), "Two ports have the name `a`");
    let many: Vec<_> = (0..16).map(|port| format!("name={port},file={}", path(&port.to_string()))).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(error(&many), "There is room for 15 ports beside the console, not for 16");
    assert!(device(&many[1..]).is_ok());
    assert_eq!(error(&["name=a,file=/dev/null/a"]), "Cannot create /dev/null/a");
    assert!(!Path::new("x").exists());
}

#[test]
fn messages_that_make_no_sense_are_ignored() {
    let (mut guest, _) = guest(&[], &Screen::with_room(SCREEN));
    guest.start();
    for (port, event, value) in [(1, PORT_READY, 1), (u32::MAX, OPEN, 1), (0, 99, 1), (0, READY, 0), (0, PORT_READY, 0)]
    {
        tell(&mut guest, port, event, value);
    }
    send(&mut guest, 3, b"short");
    assert_eq!(guest.request(3, &[(BUFFERS, 64, WRITE)]), 0);
    offer_room(&mut guest, 2, 1);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(guest.poll_used(2), None);
    tell(&mut guest, 0, READY, 1);
    assert_eq!(received(&mut guest, 2), message(0, ADD, 1));
}

#[test]
fn a_flood_of_messages_leaves_one_of_each_kind() {
    let (mut guest, _) = guest(&[], &Screen::with_room(SCREEN));
    guest.start();
    for _ in 0..1000 {
        tell(&mut guest, 0, READY, 1);
        tell(&mut guest, 0, PORT_READY, 1);
    }
    offer_room(&mut guest, 2, 16);
    let expected = [message(0, ADD, 1), message(0, CONSOLE, 1), message(0, OPEN, 1)];
    assert_eq!([(); 3].map(|()| received(&mut guest, 2)), expected);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(guest.poll_used(2), None);
}

#[test]
fn a_message_that_does_not_fit_is_cut() {
    let (mut guest, _) = guest(&[], &Screen::with_room(SCREEN));
    guest.start();
    guest.descriptor(2, 0, (BUFFERS, 3, WRITE, 0));
    guest.publish(2, 0);
    guest.descriptor(2, 1, (BUFFERS + 16, 64, 0, 0));
    guest.publish(2, 1);
    tell(&mut guest, 0, READY, 1);
    tell(&mut guest, 0, PORT_READY, 1);
    assert_eq!(guest.wait_used(2), (0, 3));
    assert_eq!(guest.wait_used(2), (1, 0));
    assert_eq!(guest.bytes(BUFFERS, 8), [0; 8]);
}

#[test]
fn a_chain_larger_than_memory_is_printed_in_parts_and_others_have_their_turn() {
    // Slow enough for the message to be heard in between, on however busy a machine.
    let screen = Screen(Screen::with_room(usize::MAX).0, Duration::from_millis(1));
    let (mut guest, _) = guest(&[], &screen);
    start(&mut guest);
    for index in 0..16 {
        let next = if index < 15 { NEXT } else { 0 };
        guest.descriptor(1, index, (BUFFERS, 0x4_0000, next, index + 1));
    }
    guest.publish(1, 0);
    guest.kick(1);
    tell(&mut guest, 0, READY, 1);
    assert!(screen.bytes().len() < 1 << 22, "the message was heard before the end");
    assert_eq!(guest.wait_used(1), (0, 0));
    assert_eq!(screen.bytes().len(), 1 << 22);
}

#[test]
fn a_broken_chain_needs_a_reset_and_the_console_works_after_it() {
    let screen = Screen::with_room(SCREEN);
    let (mut guest, _) = guest(&[], &screen);
    for queue in [1, 3] {
        start(&mut guest);
        guest.descriptor(queue, 5, (BUFFERS, 8, NEXT, 5));
        guest.publish(queue, 5);
        guest.kick(queue);
        guest.wait_needs_reset();
    }
    start(&mut guest);
    send(&mut guest, 1, b"works");
    assert_eq!(screen.bytes(), b"works");
}

#[test]
fn every_queue_has_128_entries() {
    let directory = tempfile::tempdir().unwrap();
    let log = format!("name=log,file={}", directory.path().join("log").display());
    for (lines, queues) in [(&[][..], 4), (&[&log[..]][..], 6)] {
        assert_eq!(device(lines).unwrap().queue_sizes(), vec![128; queues]);
    }
}
