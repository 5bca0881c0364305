//! Sockets between the guest and programs of the host.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::guest::{MACHINES, Running, command};

/// What is sent over one connection, in bytes: more than all buffers on its way hold.
const LENGTH: u32 = 768 << 10;
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn the_guest_gives_back_what_it_gets_whoever_connects() {
    for machine in [MACHINES[0], MACHINES[3]] {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("vm");
        let of_guest = UnixListener::bind(directory.path().join("vm_1024")).unwrap();
        of_guest.set_nonblocking(true).unwrap();
        let keys = format!("cid=77,uds={}", socket.display());
        let mut guest = Running::start(command("vsock", &["--announce", "cmdline", "--vsock", &keys]).args(machine));
        guest.wait_for("cid 77\n");
        exchange(&accept(&of_guest));
        exchange(&connect(&socket, 52).expect("The guest listens"));
        assert!(connect(&socket, 53).is_none(), "nobody listens");

        let descriptors = || fs::read_dir(format!("/proc/{}/fd", guest.pid())).unwrap().count();
        let before = descriptors();
        for _ in 0..500 {
            connect(&socket, 52).expect("The guest listens again");
        }
        exchange(&connect(&socket, 52).expect("The guest listens"));
        wait(|| descriptors() <= before, "connections are closed");
        assert!(connect(&socket, 99).is_none());
        let outcome = guest.finish().expect_status(0);
        assert_eq!(outcome.stdout, "cid 77\n");
        assert!(!socket.exists(), "the socket is gone");
    }
}

/// A connection to a port of the guest's; none if nobody listens there.
fn connect(socket: &Path, port: u32) -> Option<UnixStream> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
    let mut line = String::new();
    // Nothing comes behind the line before something is sent.
    BufReader::new(&stream).read_line(&mut line).unwrap();
    line.starts_with("OK ").then_some(stream)
}

fn accept(listener: &UnixListener) -> UnixStream {
    let mut accepted = None;
    wait(|| listener.accept().map(|(stream, _)| accepted = Some(stream)).is_ok(), "the guest connects");
    let stream = accepted.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends, and gets the same back, to the end of each direction.
fn exchange(mut stream: &UnixStream) {
    // In this sequence, each piece of a packet's length stands once.
    let data: Vec<u8> = (0..LENGTH / 4).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let (sent, mut writer) = (data.clone(), stream.try_clone().unwrap());
    let writing = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == data, "{} bytes came back", received.len());
}

#[track_caller]
fn wait(mut done: impl FnMut() -> bool, what: &str) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "It does not come to this: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
