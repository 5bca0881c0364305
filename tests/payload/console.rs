//! The console between a user and a guest.

use std::fs;
use std::io::{Seek as _, Write};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::pty::Winsize;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, OutputFlags, tcgetattr};
use nix::unistd::Pid;

use crate::guest::{MACHINES, Running, command, finish, run, wait};

/// Bytes that are too many to be kept anywhere.
const TOTAL_INPUT: u64 = 1 << 30;

/// How terminals of these tests look.
const SIZE: Winsize = Winsize { ws_row: 25, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

const WAYS: [&str; 3] = ["by=asking", "by=interrupt", "by=linux"];

#[test]
fn input_reaches_the_guest() {
    for machine in MACHINES {
        for by in WAYS {
            let mut guest = Running::start(command("echo", &["-a", by]).args(machine).stdin(Stdio::piped()));
            guest.wait_for("ready\n");
            guest.write(b"typed");
            guest.wait_for("typed");
            guest.write(b" later\nq");
            assert_eq!(guest.finish().expect_status(0).stdout, "ready\ntyped later\nbye\n", "{by} {machine:?}");
        }
    }
}

#[test]
fn input_longer_than_any_buffer_arrives_whole() {
    let text: String = (0..1000).map(|i| i.to_string() + "\n").collect();
    for by in WAYS {
        let mut file = tempfile::tempfile().unwrap();
        write!(file, "{text}q").unwrap();
        file.rewind().unwrap();
        // A regular file, which cannot be waited for as a pipe can.
        let outcome = finish(command("echo", &["-a", by]).stdin(file)).expect_status(0);
        assert_eq!(outcome.stdout, format!("ready\n{text}bye\n"), "{by}");
    }
}

#[test]
fn a_guest_that_reads_nothing_does_not_fill_memory() {
    check_flood(&mut command("end", &["-a", "how=idle"]), "ending\n");
}

#[test]
fn the_end_of_input_is_not_the_guests_end() {
    let outcome =
        finish(command("end", &["-a", "how=idle", "--timeout", "1s"]).stdin(Stdio::null())).expect_status(124);
    assert!(outcome.elapsed >= Duration::from_secs(1));
}

#[test]
fn a_reader_that_reads_nothing_holds_up_neither_timeout_nor_signals() {
    let start = |timeout| {
        let mut command = command("flood", &["--timeout", timeout]);
        // The pipe is full at once and stays so.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("carpel starts")
    };
    let mut timed = start("500ms");
    assert_eq!(wait(&mut timed, Instant::now()), 124);

    let mut signalled = start("60s");
    thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(signalled.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(wait(&mut signalled, Instant::now()), 143);
}

#[test]
fn a_terminal_is_raw_while_the_guest_runs_and_restored_after_every_end() {
    check_terminal(130, "60s", |guest| guest.write(b"\x01x"));
    check_terminal(0, "60s", |guest| guest.write(b"q"));
    check_terminal(124, "1s", |_| ());
    check_terminal(143, "60s", |guest| guest.signal(Signal::SIGTERM));
}

#[test]
fn keys_that_signal_elsewhere_are_the_guests_on_a_terminal() {
    let (mut guest, _terminal) = Running::start_on_terminal(&mut command("echo", &[]), SIZE);
    guest.wait_for("ready");
    guest.write(b"<\x03\x1a\x1c>");
    guest.wait_for("<\x03\x1a\x1c>");
    guest.write(b"q");
    guest.finish().expect_status(0);
}

#[test]
fn a_console_in_a_file_leaves_standard_output_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("console");
    let target = format!("file={}", file.display());
    let outcome = run("hello", &["--console", &target]).expect_status(0);
    assert_eq!(outcome.stdout, "");
    assert_eq!(fs::read_to_string(file).unwrap(), "Hello from a guest\n");
}

#[test]
fn a_console_without_a_place_is_still_watched() {
    let outcome = run("end", &["--console", "null", "-a", "how=spin", "--until", "ending"]);
    assert_eq!(outcome.expect_status(0).stdout, "");
}

/// Runs a guest on a terminal and ends it in a way that gives the status.
fn check_terminal(status: i32, timeout: &str, end: fn(&mut Running)) {
    let mut command = command("echo", &["--timeout", timeout]);
    let (mut guest, terminal) = Running::start_on_terminal(&mut command, SIZE);
    guest.wait_for("ready");
    let raw = tcgetattr(&terminal).unwrap();
    let cooked = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
    assert!(!raw.local_flags.intersects(cooked), "{raw:?}");
    end(&mut guest);
    guest.finish().expect_status(status);
    let after = tcgetattr(&terminal).unwrap();
    assert!(after.local_flags.contains(cooked), "{status}: {after:?}");
    assert!(after.output_flags.contains(OutputFlags::OPOST), "{status}: {after:?}");
}

/// Starts a guest that prints a text when it is ready and then reads nothing, and gives it more input than could be kept.
#[track_caller]
pub fn check_flood(command: &mut Command, ready: &str) {
    let mut guest = Running::start(command.args(["--timeout", "4s"]).stdin(Stdio::piped()));
    guest.wait_for(ready);
    let before = resident(guest.pid());
    let writer = flood(guest.take_input());
    thread::sleep(Duration::from_secs(2));
    let grown = resident(guest.pid()).saturating_sub(before);
    guest.finish().expect_status(124);
    let written = writer.join().unwrap();
    assert!(grown <= 1 << 20, "{grown} bytes more after {written} of input");
}

/// Writes as much as a guest may be given, or until its monitor ends; the thread returns how much it was.
fn flood(mut input: Box<dyn Write + Send>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let (block, mut written) = (vec![b'x'; 1 << 16], 0);
        while written < TOTAL_INPUT && input.write_all(&block).is_ok() {
            written += block.len() as u64;
        }
        written
    })
}

/// Bytes of a process in memory.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("carpel runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux counts resident memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
