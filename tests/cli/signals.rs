//! Signals, and what a process inherits of them; the end of the process that started carpel.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use carpel_testbed::payload;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;
use tempfile::tempdir;

use crate::carpel::{carpel, expect_parts, hello, is_root, refusal, under};
use crate::guest::{Running, finish, wait};

/// SIGSTOP interrupts what no handler would, and SIGTSTP never outlasts SIGCONT; the others must find their default,
/// which is to do nothing.
const STORM: [Signal; 8] = [
    Signal::SIGWINCH,
    Signal::SIGURG,
    Signal::SIGSTOP,
    Signal::SIGCONT,
    Signal::SIGCHLD,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

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

/// `carpel run` with a guest that says `ending` and does as it is told.
fn end(how: &str, args: &[&str]) -> Command {
    let mut command = carpel(&["run", "-a", &format!("how={how}"), "-k"]);
    command.arg(payload::path("end")).args(args);
    command
}

#[test]
fn signals_that_were_ignored_at_the_start_stay_ignored() {
    for (signal, name) in
        [(Signal::SIGHUP, "HUP"), (Signal::SIGINT, "INT"), (Signal::SIGQUIT, "QUIT"), (Signal::SIGTERM, "TERM")]
    {
        let ignore = format!("--ignore-signal={name}");
        let mut guest = Running::start(&mut under(&["env", &ignore], &end("spin", &[])));
        guest.wait_for("ending\n");
        guest.signal(signal);
        thread::sleep(Duration::from_millis(300));
        // The others end it.
        let (other, status) = if signal == Signal::SIGTERM { (Signal::SIGINT, 130) } else { (Signal::SIGTERM, 143) };
        guest.signal(other);
        let outcome = guest.finish().expect_status(status);
        assert_eq!(outcome.stderr, format!("carpel: Ended by signal {}\n", status - 128), "{name}");
    }
}

#[test]
fn a_guest_under_nohup_survives_a_hangup() {
    let mut guest = Running::start(&mut under(&["nohup"], &end("idle", &[])));
    guest.wait_for("ending\n");
    guest.signal(Signal::SIGHUP);
    thread::sleep(Duration::from_millis(300));
    guest.signal(Signal::SIGTERM);
    guest.finish().expect_status(143);
}

/// A script without job control has its background jobs ignore the keys that are meant for itself.
#[test]
fn a_background_job_of_a_script_ignores_the_scripts_interrupt() {
    let script = "\"$@\" & pid=$!; sleep 1; kill -INT $pid; kill -QUIT $pid; sleep 0.3; kill $pid; wait $pid";
    let outcome = finish(&mut under(&["sh", "-c", script, "sh"], &end("idle", &[]))).expect_status(143);
    assert_eq!(outcome.stderr, "carpel: Ended by signal 15\n");
}

#[test]
fn signals_that_the_parent_had_blocked_do_what_they_do() {
    for blocked in ["--block-signal", "--block-signal=TERM", "--block-signal=RTMIN", "--block-signal=ALRM"] {
        for how in ["spin", "idle"] {
            finish(&mut under(&["env", blocked], &end(how, &["--timeout", "500ms"]))).expect_status(124);
            let mut guest = Running::start(&mut under(&["env", blocked], &end(how, &[])));
            guest.wait_for("ending\n");
            guest.signal(Signal::SIGTERM);
            guest.finish().expect_status(143);
        }
    }
}

/// Before there is a guest, carpel may wait for a file's other end.
#[test]
fn a_signal_that_was_blocked_ends_carpel_before_there_is_a_guest() {
    let directory = tempdir().unwrap();
    let pipe = directory.path().join("console");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let target = format!("file={}", pipe.display());
    let guest = Running::start(&mut under(&["env", "--block-signal"], &hello(&["--console", &target])));
    thread::sleep(Duration::from_millis(500));
    guest.signal(Signal::SIGTERM);
    let outcome = guest.finish();
    assert!(outcome.status == 143 && outcome.elapsed >= Duration::from_millis(500), "{outcome:#?}");
    assert_eq!(outcome.stderr, "carpel: Ended by signal 15; what waits for the host is left behind\n");
}

#[test]
fn a_signal_for_the_maps_that_comes_before_the_guest_waits_for_it() {
    let script = "kill -USR1 $$; exec \"$@\"";
    let wrapper = ["env", "--block-signal", "sh", "-c", script, "sh"];
    let outcome = finish(&mut under(&wrapper, &end("idle", &["--timeout", "1s"]))).expect_status(124);
    expect_parts(&outcome.stderr, &["physical", "carpel: The guest ran longer"]);
}

#[test]
fn lines_of_carpels_begin_at_a_lines_start() {
    let prompt = |args: &[&str]| {
        let mut command = end("idle", &["-a", "say=login"]);
        command.args(args);
        command
    };
    let together = |args: &[&str]| under(&["sh", "-c", "exec \"$@\" 2>&1", "sh"], &prompt(args));
    let outcome = finish(&mut together(&["--timeout", "1s"])).expect_status(124);
    assert_eq!(outcome.stdout, "login: \ncarpel: The guest ran longer than --timeout\n");
    // Not where nothing else goes.
    let outcome = finish(&mut prompt(&["--timeout", "1s"])).expect_status(124);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.lines().count()), ("login: ", 1));
    // Maps and the log, too.
    let mut guest = Running::start(&mut together(&["-v"]));
    guest.wait_for("login: ");
    guest.signal(Signal::SIGUSR1);
    thread::sleep(Duration::from_millis(500));
    guest.signal(Signal::SIGTERM);
    let outcome = guest.finish().expect_status(143);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    let at = lines.iter().position(|line| line.contains("login: ")).unwrap();
    assert_eq!(lines[at], "login: ", "{lines:#?}");
    assert!(lines[at + 1].contains("physical") && lines.contains(&"carpel: Ended by signal 15"), "{lines:#?}");
    // A file that both go to.
    let file = tempfile::NamedTempFile::new().unwrap();
    let target = format!("file={}", file.path().display());
    let started = Instant::now();
    let mut command = prompt(&["--timeout", "1s", "--console", &target]);
    let errors = fs::File::options().append(true).open(file.path()).unwrap();
    assert_eq!(wait(&mut command.stdout(Stdio::null()).stderr(errors).spawn().unwrap(), started), 124);
    let text = fs::read_to_string(file.path()).unwrap();
    assert_eq!(text, "login: \ncarpel: The guest ran longer than --timeout\n");
}

#[test]
fn a_guest_ends_with_the_parent_that_it_shall_not_outlive() {
    for (how, option) in [("spin", "--die-with-parent"), ("idle", "--die-with-parent=yes")] {
        let directory = tempdir().unwrap();
        let report = directory.path().join("report.json");
        let mut command = end(how, &[option, "--report"]);
        command.arg(&report);
        // The shell is the parent, and not the one that is waited for below.
        let script = "\"$@\" & wait";
        let mut shell = Running::start(&mut under(&["sh", "-c", script, "sh"], &command));
        shell.wait_for("ending\n");
        shell.signal(Signal::SIGKILL);
        let outcome = shell.finish();
        assert_eq!(outcome.stderr, "carpel: The process that started carpel ended (--die-with-parent)\n");
        let report: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
        assert_eq!((&report["outcome"], &report["status"]), (&"parent-ended".into(), &129.into()), "{report:#}");
    }
}

#[test]
fn a_guest_outlives_its_parent_unless_told_otherwise() {
    for args in [&[][..], &["--die-with-parent=no"]] {
        let script = "\"$@\" & echo pid $! >&2; wait";
        let mut shell = Running::start(&mut under(&["sh", "-c", script, "sh"], &end("idle", args)));
        shell.wait_for("ending\n");
        let said = shell.wait_for_error("pid ");
        let pid = said.trim_end().strip_prefix("pid ").unwrap().parse().unwrap();
        shell.signal(Signal::SIGKILL);
        thread::sleep(Duration::from_millis(500));
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("carpel runs");
        assert_eq!(shell.finish().stderr, said + "carpel: Ended by signal 15\n", "{args:?}");
    }
}

#[test]
fn the_end_of_the_parents_thread_is_not_the_parents() {
    let start = || Running::start(&mut end("idle", &["--die-with-parent"]));
    let mut guest = thread::spawn(start).join().unwrap();
    guest.wait_for("ending\n");
    thread::sleep(Duration::from_millis(500));
    guest.signal(Signal::SIGTERM);
    guest.finish().expect_status(143);
}

#[test]
fn a_parent_that_cannot_be_watched_is_said() {
    // Process 1 of its namespace has no parent there, and its children have it.
    let flags = if is_root() { "-pf" } else { "-rpf" };
    for (shell, parent) in [("exec \"$@\"", "getppid is 0"), ("\"$@\"; exit $?", "getppid is 1")] {
        let run = |args: &[&str]| under(&["unshare", flags, "sh", "-c", shell, "sh"], &hello(args));
        let line = refusal(&mut run(&["--die-with-parent"]), 2);
        expect_parts(&line, &["--die-with-parent", "no parent to watch", parent, "leave the option out"]);
        finish(&mut run(&[])).expect_status(0);
        finish(&mut run(&["--die-with-parent=no"])).expect_status(0);
    }
    let line = refusal(&mut hello(&["--die-with-parent=perhaps"]), 2);
    expect_parts(&line, &["perhaps", "yes or no"]);
}
