//! Standard streams that are closed, full, or that nobody reads.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Instant;

use carpel_testbed::payload;

use crate::carpel::{carpel, complaint, expect_parts, hello, under};
use crate::guest::{Outcome, finish, wait};

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// Runs a command whose stdout goes elsewhere, and collects its stderr in a file.
fn finish_with_stdout(command: &mut Command, stdout: Stdio) -> Outcome {
    let errors = tempfile::NamedTempFile::new().unwrap();
    let started = Instant::now();
    let mut child = command.stdout(stdout).stderr(errors.reopen().unwrap()).spawn().unwrap();
    let status = wait(&mut child, started);
    let stderr = std::fs::read_to_string(errors.path()).unwrap();
    Outcome { status, stdout: String::new(), stderr, elapsed: started.elapsed() }
}

/// The status of a command to whose stderr nothing can be written.
fn status_with_full_stderr(command: &mut Command) -> i32 {
    let started = Instant::now();
    wait(&mut command.stdout(Stdio::null()).stderr(full()).spawn().unwrap(), started)
}

/// A pipe whose reader is gone.
fn broken_pipe() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

#[test]
fn a_guest_runs_with_closed_streams() {
    for (closed, output) in [("<&-", "Hello from a guest\n"), (">&-", ""), ("<&- >&- 2>&-", "")] {
        let close = format!("exec \"$@\" {closed}");
        let outcome = finish(&mut under(&["sh", "-c", &close, "sh"], &hello(&[]))).expect_status(0);
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), (output, ""), "{closed}");
    }
}

#[test]
fn what_cannot_be_printed_is_lost_and_said_once() {
    let mut flood = carpel(&["run", "--timeout", "1s", "-k"]);
    let outcome = finish_with_stdout(flood.arg(payload::path("flood")), full()).expect_status(124);
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("No space left on device"), "{lines:#?}");
    // What the guest prints is still watched.
    let outcome = finish_with_stdout(&mut hello(&["--fail-on", "guest"]), full()).expect_status(123);
    assert!(outcome.stderr.lines().count() <= 2, "{outcome:#?}");
}

#[test]
fn a_guest_without_a_reader_ends_as_programs_in_pipes_do() {
    let outcome = finish_with_stdout(&mut hello(&[]), broken_pipe());
    complaint(outcome, 141);
}

#[test]
fn what_was_asked_for_must_be_printed() {
    for command in [&["map"][..], &["devices"], &["doctor"], &["help"], &["run", "--help"], &["version"]] {
        let line = complaint(finish_with_stdout(&mut carpel(command), full()), 125);
        expect_parts(&line, &["standard output", "No space left on device"]);
        // A reader that has seen enough.
        let outcome = finish_with_stdout(&mut carpel(command), broken_pipe()).expect_status(0);
        assert_eq!(outcome.stderr, "", "{command:?}");
    }
    let line = complaint(finish_with_stdout(&mut hello(&["--dry-run"]), full()), 125);
    expect_parts(&line, &["standard output", "No space left on device"]);
}

#[test]
fn a_full_stderr_changes_no_status() {
    assert_eq!(status_with_full_stderr(&mut carpel(&["run", "-k", "missing"])), 2);
    assert_eq!(status_with_full_stderr(&mut carpel(&["--frobnicate"])), 2);
    assert_eq!(status_with_full_stderr(&mut hello(&["-v", "-v"])), 0);
    let mut dead = carpel(&["run", "-a", "how=triple-fault", "-k"]);
    assert_eq!(status_with_full_stderr(dead.arg(payload::path("end"))), 121);
}
