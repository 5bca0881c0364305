//! The console as a guest's virtio driver finds it, and all that can be at its other end.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::Winsize;
use nix::sys::signal::Signal;

use crate::console::check_flood;
use crate::guest::{MACHINES, Running, command, finish, wait};

fn console(how: &str, args: &[&str]) -> Command {
    let mut command = command("console", &["--announce", "cmdline", "-a", how]);
    command.args(args);
    command
}

/// Connects to a socket that carpel is about to make.
#[track_caller]
pub fn connect(path: &Path) -> UnixStream {
    let started = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(20), "{error}"),
        }
        thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
fn read_until(stream: &mut impl std::io::Read, text: &str) -> String {
    let (mut all, mut byte) = (String::new(), [0]);
    while !all.contains(text) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{text:?} did not come, but {all:?}");
        all.push(byte[0].into());
    }
    all
}

#[test]
fn serial_port_and_virtio_port_print_to_one_place_and_input_follows_the_guest() {
    for machine in MACHINES {
        for plain in ["plain=0", "plain=1"] {
            let mut guest = Running::start(console("do=echo", &["-a", plain]).args(machine).stdin(Stdio::piped()));
            // Long before any port takes it.
            guest.write(b"typed");
            guest.wait_for("ready\ntyped");
            guest.write(b" later\nq");
            let outcome = guest.finish().expect_status(0);
            assert_eq!(outcome.stdout, "serial\nready\ntyped later\nq\nbye\n", "{plain} {machine:?}");
        }
    }
}

#[test]
fn what_either_port_prints_is_watched() {
    finish(console("do=idle", &["--until", "^ready$"]).stdin(Stdio::null())).expect_status(0);
    let outcome = finish(console("do=idle", &["--fail-on", "rea"]).stdin(Stdio::null())).expect_status(123);
    assert_eq!(outcome.stdout, "serial\nready\n");
    let outcome = finish(console("do=panic", &[]).stdin(Stdio::null())).expect_status(120);
    assert_eq!(outcome.stdout, "serial\n[    1.0] Kernel panic - not syncing: in words\n");
    // Lines are those of one port: what the other one prints does not continue them.
    finish(console("do=echo", &["--console", "null", "--until", "^ready$"]).stdin(Stdio::null())).expect_status(0);
}

#[test]
fn without_the_device_there_is_the_serial_port() {
    let outcome = finish(console("do=echo", &["--device", "console,off"]).stdin(Stdio::null())).expect_status(0);
    assert_eq!(outcome.stdout, "no console device\n");
}

#[test]
fn a_guest_that_uses_the_console_and_reads_nothing_does_not_fill_memory() {
    check_flood(&mut console("do=idle", &[]), "ready\n");
}

#[test]
fn input_longer_than_any_buffer_arrives_whole() {
    let text: String = (0..20_000).map(|i| i.to_string() + "\n").collect();
    let mut guest = Running::start(console("do=echo", &[]).stdin(Stdio::piped()));
    guest.wait_for("ready\n");
    let mut input = guest.take_input();
    let sent = text.clone();
    let writer = thread::spawn(move || input.write_all((sent + "q").as_bytes()).unwrap());
    let outcome = guest.finish().expect_status(0);
    writer.join().unwrap();
    assert_eq!(outcome.stdout, format!("serial\nready\n{text}q\nbye\n"));
}

#[test]
fn a_reader_that_reads_nothing_holds_up_neither_timeout_nor_signals() {
    let start = |timeout| {
        let mut command = console("do=flood", &["--timeout", timeout]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("carpel starts")
    };
    assert_eq!(wait(&mut start("500ms"), Instant::now()), 124);
    let mut signalled = start("60s");
    thread::sleep(Duration::from_millis(500));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(signalled.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(wait(&mut signalled, Instant::now()), 143);
    // A terminal, too, that nobody reads from.
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = console("do=flood", &["--timeout", "1s"]);
    command.stdin(Stdio::null()).stdout(pty.slave.try_clone().unwrap()).stderr(Stdio::null());
    assert_eq!(wait(&mut command.spawn().unwrap(), Instant::now()), 124);
}

#[test]
fn the_guest_learns_the_terminals_size_and_its_changes() {
    let size = Winsize { ws_col: 100, ws_row: 30, ws_xpixel: 0, ws_ypixel: 0 };
    let (mut guest, terminal) = Running::start_on_terminal(&mut console("do=echo", &[]), size);
    guest.wait_for("size 100x30");
    guest.wait_for("ready");
    resize(&terminal, 132, 43);
    guest.signal(Signal::SIGWINCH);
    guest.wait_for("size 132x43");
    guest.write(b"q");
    guest.finish().expect_status(0);
}

#[test]
fn a_console_on_a_socket_serves_clients_that_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let target = format!("socket={}", path.display());
    let guest = Running::start(console("do=echo", &["--console", &target]).stdin(Stdio::null()));
    let mut client = connect(&path);
    client.write_all(b"first\n").unwrap();
    read_until(&mut client, "first\n");
    drop(client);
    // The monitor needs a moment to see that.
    let started = Instant::now();
    let mut client = loop {
        let mut client = connect(&path);
        client.write_all(b"second\n").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut byte = [0];
        if matches!(client.read(&mut byte), Ok(1)) {
            break client;
        }
        assert!(started.elapsed() < Duration::from_secs(20));
    };
    read_until(&mut client, "\n");

    // Nobody else gets the same socket.
    let second = finish(console("do=echo", &["--console", &target]).stdin(Stdio::null())).expect_status(2);
    let says = format!(
        "carpel: Cannot connect the console: The socket {} is in use by another guest or process\n",
        path.display()
    );
    assert_eq!(second.stderr, says);

    client.write_all(b"q").unwrap();
    read_until(&mut client, "bye\n");
    let outcome = guest.finish().expect_status(0);
    assert_eq!(outcome.stdout, "");
    assert!(!path.exists());

    // A stale one is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let outcome = finish(console("do=idle", &["--console", &target, "--until", "ready"]).stdin(Stdio::null()));
    outcome.expect_status(0);
    assert!(!path.exists());
}

#[test]
fn a_console_on_a_terminal_of_its_own() {
    let mut guest = Running::start(console("do=echo", &["--console", "pty"]).stdin(Stdio::null()));
    let line = guest.wait_for_error("\n");
    let name = line.strip_prefix("carpel: The console is the terminal ").unwrap().trim_end().to_owned();
    let mut terminal = File::options().read(true).write(true).open(name).unwrap();
    terminal.write_all(b"typed\n").unwrap();
    read_until(&mut terminal, "typed\n");
    terminal.write_all(b"q").unwrap();
    guest.finish().expect_status(0);
}

#[test]
fn a_port_of_its_own_reaches_a_file_or_a_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("port");
    let device = format!("console,name=org.example.agent,socket={}", path.display());
    let guest = Running::start(console("do=port", &["--device", &device]).stdin(Stdio::null()));
    let mut client = connect(&path);
    read_until(&mut client, "ready\n");
    client.write_all(b"what?\n").unwrap();
    read_until(&mut client, "what?\n");
    client.write_all(b"q").unwrap();
    let outcome = guest.finish().expect_status(0);
    assert_eq!(outcome.stdout, "serial\nname org.example.agent\n\nbye\n");

    let device = format!("console,name=log,file={}", path.display());
    let mut command = console("do=port", &["--device", &device, "--timeout", "1s"]);
    let outcome = finish(command.stdin(Stdio::null())).expect_status(124);
    assert_eq!(outcome.stdout, "serial\nname log\n");
    assert_eq!(fs::read_to_string(path).unwrap(), "ready\n");
}

#[test]
fn wrong_ports_are_told_in_one_line() {
    let line =
        |device: &str| finish(console("do=echo", &["--device", device]).stdin(Stdio::null())).expect_status(2).stderr;
    let says = "carpel: Cannot make the device `console,name=a`: The port `a` needs one of file, socket and pty\n";
    assert_eq!(line("console,name=a"), says);
    let both = ["--device", "console,off", "--device", "console,name=a,pty"];
    let outcome = finish(console("do=echo", &both).stdin(Stdio::null())).expect_status(2);
    assert_eq!(outcome.stderr, "carpel: `console,off` takes away what `console,name=a,pty` configures\n");
}

fn resize(terminal: &File, columns: u16, rows: u16) {
    let (columns, rows) = (columns.to_string(), rows.to_string());
    let mut stty = Command::new("stty");
    assert!(
        stty.args(["cols", &columns, "rows", &rows]).stdin(terminal.try_clone().unwrap()).status().unwrap().success()
    );
}
