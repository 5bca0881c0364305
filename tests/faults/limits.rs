//! Too little of what threads and memory are made of.

use std::process::Command;

use carpel_testbed::payload;
use nix::unistd::geteuid;

use crate::carpel::{carpel, complaint, expect_parts, hello, under};
use crate::guest::finish;

fn with_stack(kib: u32, command: &Command) -> Command {
    under(&["sh", "-c", &format!("ulimit -s {kib}; exec \"$@\""), "sh"], command)
}

#[test]
fn a_stack_that_is_too_small_is_one_line() {
    for kib in [16, 24, 32, 64, 100, 128, 192, 256, 511] {
        let line = complaint(finish(&mut with_stack(kib, &hello(&["-c", "2"]))), 125);
        expect_parts(&line, &[&format!("A stack of {kib} KiB is too small"), "`ulimit -s 512`"]);
    }
    finish(&mut with_stack(512, &hello(&["-c", "2"]))).expect_status(0);
}

/// The standard library takes this for the size of every thread's stack, where nobody says another.
#[test]
fn the_environment_makes_no_stack_too_small() {
    finish(hello(&["-c", "4"]).env("RUST_MIN_STACK", "1")).expect_status(0);
}

/// Memory runs out in threads, in what is made for them and in the smallest allocation.
#[test]
fn memory_that_runs_out_anywhere_is_one_line() {
    let mut least = 0;
    let limited = |kib: u64, command: &Command| under(&["prlimit", &format!("--as={}", kib << 10)], command);
    let mut ran = Vec::new();
    for kib in (12 << 10..56 << 10).step_by(64) {
        let outcome = finish(&mut limited(kib, &hello(&["-m", "16M", "-c", "4"])));
        // With less, Linux does not even start the program.
        if least == 0 && (outcome.status < 0 || outcome.status == 127) {
            continue;
        }
        least = kib;
        ran.push(outcome.status == 0);
        if outcome.status != 0 {
            complaint(outcome, 125);
        }
    }
    assert!(!ran[0] && ran.contains(&true), "{ran:?}");
}

/// How many threads a user has, so that a limit leaves room for so many more.
fn tasks_of_user() -> usize {
    let listed = Command::new("ps").args(["-L", "-o", "lwp=", "-u"]).arg(geteuid().to_string()).output().unwrap();
    listed.stdout.split(|&byte| byte == b'\n').count()
}

/// A thread may be missing for a disk, for a vCPU, or for KVM itself.
#[test]
fn with_any_number_of_threads_a_guest_runs_or_one_line_tells_why_not() {
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(64 << 10).unwrap();
    let guest = |room: usize| {
        let disk = format!("{},engine=threads", disk.path().display());
        let mut command =
            carpel(&["run", "-c", "4", "--announce", "cmdline", "--device", "rng", "--disk", &disk, "-k"]);
        command.arg(payload::path("rng"));
        if !geteuid().is_root() {
            return under(&["prlimit", &format!("--nproc={}", tasks_of_user() + room)], &command);
        }
        // A limit is nothing to root, and all processes of a user count.
        let limit = format!("--nproc={room}");
        let files = ["--inh-caps=-all,+dac_override", "--ambient-caps=+dac_override"];
        let user = ["setpriv", "--reuid=54321", "--clear-groups", files[0], files[1], "prlimit", &limit];
        under(&user, &command)
    };
    let ran: Vec<_> = (1..=16)
        .map(|room| {
            let outcome = finish(&mut guest(room));
            let ran = outcome.status == 0;
            if !ran {
                expect_parts(&complaint(outcome, 125), &["Resource temporarily unavailable"]);
            }
            ran
        })
        .collect();
    assert!(!ran[0] && ran[15], "{ran:?}");
}
