use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps as _};

use super::*;

/// What waits for the input's events.
struct Waiter(Input);

impl MutEventSubscriber for Waiter {
    fn init(&mut self, ops: &mut EventOps) {
        self.0.register(0, ops).unwrap();
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        self.0.event(0, events.data(), events, ops);
    }
}

struct Loop {
    manager: EventManager<Waiter>,
    id: event_manager::SubscriberId,
}

impl Loop {
    fn new(input: Input) -> Self {
        let mut manager = EventManager::new().unwrap();
        let id = manager.add_subscriber(Waiter(input));
        Self { manager, id }
    }

    /// Lets events come, then reads what is there.
    fn read(&mut self) -> Vec<u8> {
        while self.manager.run_with_timeout(20).unwrap() > 0 {}
        let mut bytes = [0; 64];
        let count = self.manager.subscriber_mut(self.id).unwrap().0.read(&mut bytes);
        bytes[..count].to_vec()
    }

    fn is_connected(&mut self) -> bool {
        self.manager.subscriber_mut(self.id).unwrap().0.is_connected()
    }
}

fn socket(path: &Path) -> (Output, Loop) {
    let Endpoint { output, input } = Target::Socket(path.to_owned()).open("It").unwrap();
    (output, Loop::new(input.unwrap()))
}

#[test]
fn a_socket_serves_one_client_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let (output, mut events) = socket(&path);
    assert_eq!(output.try_write(b"nobody hears this").unwrap(), 17);
    for round in 0..3 {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        assert_eq!(events.read(), b"hello", "{round}");
        assert!(events.is_connected());
        // Another one is turned away.
        let mut other = UnixStream::connect(&path).unwrap();
        assert!(events.read().is_empty());
        assert_eq!(other.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(output.try_write(b"you").unwrap(), 3);
        let mut heard = [0; 3];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, *b"you");
        // What it sends last is read although it is gone.
        client.write_all(b"bye").unwrap();
        drop(client);
        assert_eq!(events.read(), b"bye");
        assert!(!events.is_connected());
        assert_eq!(output.try_write(b"gone").unwrap(), 4);
    }
    drop((output, events));
    assert!(!path.exists());
}

#[test]
fn a_client_that_reads_nothing_is_waited_for_by_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let (output, mut events) = socket(&path);
    let client = UnixStream::connect(&path).unwrap();
    events.read();
    let full = (0..1_000).find_map(|_| output.try_write(&[b'x'; 4096]).err());
    assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    drop(client);
    events.read();
    assert_eq!(output.try_write(b"x").unwrap(), 1);
}

#[test]
fn a_terminal_passes_bytes_as_they_are() {
    let Endpoint { output, input } = Target::Pty.open("A test's console").unwrap();
    let Sink::Pty(pty) = &*output.0 else { panic!("It is a terminal") };
    let name = pty.name().to_owned();
    let mut events = Loop::new(input.unwrap());
    for _ in 0..2 {
        // More than any terminal holds: it is lost while nobody has it open.
        assert!((0..100).all(|_| output.try_write(&[b'x'; 4096]).unwrap() == 4096));
        let mut user = File::options().read(true).write(true).open(&name).unwrap();
        output.try_write(b"a\nb\x03").unwrap();
        let mut bytes = [0; 4];
        user.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, *b"a\nb\x03");
        user.write_all(b"x\r\x03\x04").unwrap();
        assert_eq!(events.read(), b"x\r\x03\x04");
    }
}

#[test]
fn a_full_pipe_is_found_without_waiting() {
    let (reader, writer) = io::pipe().unwrap();
    let output = Output(Arc::new(Sink::File(FileOutput::new(std::os::fd::OwnedFd::from(writer).into()))));
    let full = (0..1_000).find_map(|_| output.try_write(&[b'x'; 4000]).err());
    assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    drop(reader);
    assert_eq!(output.try_write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
