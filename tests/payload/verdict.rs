//! How a console is judged: on the serial port, on `hvc0`, on a further port, whatever the other end is.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::{TempDir, tempdir};

use crate::guest::{Outcome, Running, command, finish};

const PORTS: [&str; 3] = ["serial", "0", "1"];

/// A guest that says a text on a port and then ends.
struct Guest {
    scratch: TempDir,
    port: &'static str,
    then: &'static str,
    text: Vec<u8>,
}

impl Guest {
    fn new(port: &'static str, then: &'static str, text: &[u8]) -> Self {
        Self { scratch: tempdir().unwrap(), port, then, text: text.to_vec() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let (text, further) = (self.scratch.path().join("text"), self.scratch.path().join("further"));
        fs::write(&text, &self.text).unwrap();
        let (port, then) = (format!("port={}", self.port), format!("then={}", self.then));
        let mut command = command("console", &["--announce", "cmdline", "-a", "do=say", "-a", &port, "-a", &then]);
        command.arg("-i").arg(text).args(args).stdin(Stdio::null());
        if self.port == "1" {
            command.args(["--device", &format!("console,name=log,file={}", further.display())]);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        finish(&mut self.command(args))
    }

    /// What came out at the port's other end.
    fn printed(&self, outcome: &Outcome) -> String {
        let further = self.scratch.path().join("further");
        if self.port == "1" { fs::read_to_string(further).unwrap() } else { outcome.stdout.clone() }
    }
}

#[track_caller]
fn check(guest: &Guest, args: &[&str], status: i32, printed: &str) -> Outcome {
    let outcome = guest.run(&[&["--timeout", "60s"], args].concat()).expect_status(status);
    assert_eq!(guest.printed(&outcome), printed, "{args:?} on {}: {outcome:#?}", guest.port);
    outcome
}

#[test]
fn a_guest_that_ends_before_the_awaited_line_gives_123_and_says_so() {
    for port in PORTS {
        for (then, says) in [("power-off", "powered off"), ("reset", "reset")] {
            let outcome = check(&Guest::new(port, then, b"log\nin:"), &["--until", "login:"], 123, "log\nin:");
            let message = format!("carpel: The guest {says} before its console matched --until `login:`\n");
            assert_eq!(outcome.stderr, message);
        }
    }
    let mut silent = command("end", &["-a", "say=nothing how=reset-cf9", "--until", "login:"]);
    let outcome = finish(silent.stdin(Stdio::null())).expect_status(123);
    assert!(outcome.stderr.contains("it printed nothing, as by a kernel that panics before"), "{outcome:#?}");
}

#[test]
fn another_end_than_the_guests_own_keeps_its_status_without_the_awaited_line() {
    let until = ["--until", "login:"];
    check(&Guest::new("serial", "panic", b"x\n"), &until, 120, "x\n");
    check(
        &Guest::new("0", "reset", b"Kernel panic - not syncing: x\n"),
        &until,
        120,
        "Kernel panic - not syncing: x\n",
    );
    check(
        &Guest::new("1", "reset", b"Kernel panic - not syncing: x\n"),
        &until,
        120,
        "Kernel panic - not syncing: x\n",
    );
    check(&Guest::new("serial", "triple-fault", b"x\n"), &until, 121, "x\n");
    check(&Guest::new("serial", "spin", b"x\n"), &["--until", "login:", "--watchdog", "1s"], 122, "x\n");
    finish(command("end", &["-a", "how=debug-exit value=5", "--until", "login:"]).stdin(Stdio::null()))
        .expect_status(11);
    Guest::new("0", "spin", b"x\n").run(&["--until", "login:", "--timeout", "1s"]).expect_status(124);
}

#[test]
fn what_is_printed_just_before_the_end_counts_each_time() {
    for port in PORTS {
        for text in ["login:", "log\nlogin:\r\n"] {
            for (then, args) in [("power-off", ["--until", "^login:$"]), ("reset", ["--until", "login:"])] {
                let guest = Guest::new(port, then, text.as_bytes());
                for _ in 0..10 {
                    check(&guest, &args, 0, text);
                }
            }
            let outcome = check(&Guest::new(port, "panic", text.as_bytes()), &["--fail-on", "log"], 123, text);
            let line = text.lines().next().unwrap();
            assert_eq!(outcome.stderr, format!("carpel: The console matched --fail-on `log`: {line}\n"));
        }
    }
}

#[test]
fn much_that_is_printed_just_before_the_end_is_printed_and_judged() {
    let text = "All work and no play\n".repeat(20_000) + "login:";
    for port in ["0", "1"] {
        check(&Guest::new(port, "power-off", text.as_bytes()), &["--until", "login:"], 0, &text);
    }
}

/// The pipe takes 64 KiB, and nobody reads it.
#[test]
fn a_reader_that_reads_nothing_changes_no_verdict() {
    let text = "All work and no play\n".repeat(20_000) + "BUG:";
    let guest = Guest::new("0", "power-off", text.as_bytes());
    let mut child = guest.command(&["--fail-on", "BUG:"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(crate::guest::wait(&mut child, std::time::Instant::now()), 123);
}

#[test]
fn a_waiting_prompt_matches_whatever_its_colours() {
    for port in PORTS {
        let prompt = "\x1b[01;32mroot@host\x1b[00m:\x1b[01;34m~\x1b[00m# ";
        let outcome = check(&Guest::new(port, "spin", prompt.as_bytes()), &["--until", "^root@host:~# $"], 0, prompt);
        assert!(outcome.elapsed >= Duration::from_millis(500), "{outcome:#?}");
    }
    // Not one that goes on.
    check(&Guest::new("serial", "power-off", b"# \x0c\x0c\x0c#\n"), &["--until", "# $"], 123, "# #\n");
}

#[test]
fn a_line_counts_when_it_is_complete_or_when_the_time_is_up() {
    for port in PORTS {
        let guest = Guest::new(port, "power-off", b"STATUS=12\x0c\x0c7\nmore\n");
        let outcome = check(&guest, &["--fail-on", "STATUS=[0-9]+"], 123, "STATUS=127\nmore\n");
        assert!(outcome.stderr.ends_with(": STATUS=127\n"), "{outcome:#?}");
        let guest = Guest::new(port, "spin", b"10 %\r20 %\r\x0cready");
        for (pattern, status) in [("^ready$", 0), ("^20 %$", 0), ("^%", 124)] {
            guest.run(&["--until", pattern, "--timeout", "2s"]).expect_status(status);
        }
        // Before an unfinished line has waited long enough.
        let guest = Guest::new(port, "spin", "ready\x0c\x0c".repeat(100).as_bytes());
        guest.run(&["--until", "ready$", "--timeout", "2s"]).expect_status(0);
    }
}

#[test]
fn a_failure_keeps_its_trace() {
    let trace = |end: &str| format!("one\nBUG: two\n three\n four\n{end}\nfive\n");
    for port in PORTS {
        let marker = trace("---[ end trace 0000000000000000 ]---");
        let args = ["--fail-on", "WARNING:", "--fail-on", "BUG:|Oops", "--until", "three"];
        let guest = Guest::new(port, "spin", marker.as_bytes());
        let outcome = guest.run(&[&args[..], &["--timeout", "60s"]].concat()).expect_status(123);
        assert!(guest.printed(&outcome).contains("---[ end trace 0000000000000000 ]---\n"), "{outcome:#?}");
        assert_eq!(outcome.stderr, "carpel: The console matched --fail-on `BUG:|Oops`: BUG: two\n");
        if port == "serial" {
            assert!(!outcome.stdout.contains("five"), "{outcome:#?}");
        }
        // Up to silence, and whatever ends the guest, in the middle of a long one too.
        check(&Guest::new(port, "spin", trace("").as_bytes()), &args, 123, &trace(""));
        for then in ["power-off", "reset", "panic", "triple-fault"] {
            check(&Guest::new(port, then, trace("").as_bytes()), &args, 123, &trace(""));
        }
        let long = trace(&" six\n".repeat(if port == "serial" { 10 } else { 40_000 }));
        check(&Guest::new(port, "power-off", long.as_bytes()), &args, 123, &long);
    }
}

#[test]
fn a_guest_that_never_ends_its_trace_is_ended() {
    let outcome = finish(command("flood", &["--fail-on", "line 5 "]).stdin(Stdio::null())).expect_status(123);
    assert!(outcome.elapsed >= Duration::from_secs(4) || outcome.stdout.len() >= 256 << 10, "{:?}", outcome.elapsed);
    assert!(outcome.elapsed < Duration::from_secs(30), "{:?}", outcome.elapsed);
}

#[test]
fn a_signal_or_the_timeout_ends_the_wait_and_not_the_verdict() {
    let outcome = finish(command("flood", &["--fail-on", "line 5 ", "--timeout", "1s"]).stdin(Stdio::null()));
    assert!(outcome.expect_status(123).elapsed < Duration::from_secs(4));
    let mut guest = Running::start(command("flood", &["--fail-on", "line 5 "]).stdin(Stdio::null()));
    guest.wait_for("line 5 ");
    guest.wait_for("line 9 ");
    guest.signal(Signal::SIGTERM);
    assert!(guest.finish().expect_status(123).elapsed < Duration::from_secs(4));
}

#[test]
fn a_console_in_a_file_or_nowhere_is_judged_as_well() {
    let scratch = tempdir().unwrap();
    let target = format!("file={}", scratch.path().join("console").display());
    for target in [target.as_str(), "null"] {
        for port in ["serial", "0"] {
            let guest = Guest::new(port, "power-off", b"x\nBUG: y");
            guest.run(&["--console", target, "--fail-on", "BUG:"]).expect_status(123);
            guest.run(&["--console", target, "--until", "^BUG: y$"]).expect_status(0);
            guest.run(&["--console", target, "--until", "z"]).expect_status(123);
        }
    }
    assert_eq!(fs::read_to_string(scratch.path().join("console")).unwrap(), "x\nBUG: y");
}

/// Programs talk to each other there.
#[test]
fn a_port_on_a_socket_is_no_console() {
    let guest = Guest::new("1", "power-off", b"Kernel panic - not syncing\nBUG: x\n");
    let socket = guest.scratch.path().join("socket");
    let mut command = guest.command(&["--fail-on", "BUG:"]);
    let device = format!("console,name=agent,socket={}", socket.display());
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut plain = Command::new(command.get_program());
    let without_file = arguments.len() - 2;
    plain.args(&arguments[..without_file]).args(["--device", &device]).stdin(Stdio::null());
    let client = std::thread::spawn(move || crate::virtio_console::connect(&socket));
    finish(&mut plain).expect_status(0);
    drop(client);
    // While the same in a file is one.
    finish(&mut command).expect_status(123);
}

#[test]
fn a_triple_fault_behind_the_kernels_restart_message_is_a_reset() {
    for port in PORTS {
        for (last, status) in [
            ("[    2.1] reboot: Restarting system\r\n", 0),
            ("[    2.1] reboot: Restarting system\n[    2.2] reboot: machine restart\n", 0),
            ("[    2.1] reboot: Restarting system with command 'x'\n", 0),
            ("[    2.1] reboot: Restarting system\nBUG: x\n", 121),
            ("[    2.1] reboot: Power down\n", 121),
        ] {
            check(&Guest::new(port, "triple-fault", last.as_bytes()), &[], status, last);
        }
        let last = "[    2.1] reboot: Restarting system\n";
        check(&Guest::new(port, "triple-fault", last.as_bytes()), &["--until", "login:"], 123, last);
    }
}

/// One line without end, on the port that the main thread serves.
#[test]
fn a_long_line_holds_up_neither_signals_nor_the_timeout() {
    let args = ["--announce", "cmdline", "-a", "do=flood line=1"];
    // A pattern that makes as much work for each byte as one can.
    let patterns = ["--until", "[a-h].{0,4000}z", "--fail-on", "nothing.*of this", "--fail-on", "BUG:|WARNING:"];
    let mut timed = command("console", &args);
    timed.args(patterns).args(["--timeout", "2s", "--console", "null"]).stdin(Stdio::null());
    let outcome = finish(&mut timed).expect_status(124);
    assert!(outcome.elapsed < Duration::from_secs(12), "{:?}", outcome.elapsed);

    let mut signalled = command("console", &args);
    let sink = File::options().write(true).open("/dev/null").unwrap();
    let mut child = signalled.args(patterns).stdin(Stdio::null()).stdout(sink).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let sent = std::time::Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(crate::guest::wait(&mut child, sent), 143);
    assert!(sent.elapsed() < Duration::from_secs(10), "{:?}", sent.elapsed());
}
