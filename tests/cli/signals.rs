//! Signals that mean nothing to carpel, at any moment.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use carpel_testbed::payload;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::carpel::{carpel, hello};
use crate::guest::{Running, wait};

/// SIGSTOP interrupts what no handler would; the others must find their default, which is to do nothing.
const STORM: [Signal; 6] =
    [Signal::SIGWINCH, Signal::SIGURG, Signal::SIGSTOP, Signal::SIGCONT, Signal::SIGCHLD, Signal::SIGCONT];

#[test]
fn every_start_in_a_signal_storm_boots() {
    for _ in 0..200 {
        let started = Instant::now();
        let mut child =
            hello(&["-c", "2"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("carpel starts");
        storm(&mut child, started);
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("Hello from a guest\n".into(), String::new()));
        assert_eq!(output.status.code(), Some(0));
    }
}

/// Sends signals for as long as the child runs, but leaves it some time between them.
fn storm(child: &mut Child, started: Instant) {
    let pid = Pid::from_raw(child.id().cast_signed());
    for signal in STORM.into_iter().cycle() {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        if started.elapsed() > Duration::from_secs(20) {
            // It is stopped, perhaps.
            kill(pid, Signal::SIGCONT).unwrap();
            wait(child, started);
            return;
        }
        kill(pid, signal).unwrap();
        if signal == Signal::SIGCONT {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

#[test]
fn a_stopped_run_goes_on_where_it_was() {
    let mut command = carpel(&["run", "--watchdog", "1s", "-k"]);
    let mut guest = Running::start(command.arg(payload::path("echo")).stdin(Stdio::piped()));
    guest.wait_for("ready");
    // Carpel looks after the console every quarter of a second: now it has seen the last that comes for a while.
    thread::sleep(Duration::from_millis(600));
    guest.signal(Signal::SIGSTOP);
    // The time that a guest is not allowed to run is no silence of its own.
    thread::sleep(Duration::from_millis(1500));
    guest.signal(Signal::SIGCONT);
    thread::sleep(Duration::from_millis(300));
    guest.write(b"on it goes q");
    let outcome = guest.finish().expect_status(0);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("ready\non it goes bye\n", ""));
}
