//! A host that gives few descriptors, little memory or no room on its disk.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use carpel_testbed::payload;
use nix::sys::signal::Signal;

use crate::carpel::{carpel, complaint, hello, in_namespace, under};
use crate::guest::{Outcome, Running, finish};

/// Between two limits of the address space, in bytes.
const STEP: usize = 512 << 10;

#[test]
fn with_any_number_of_descriptors_a_guest_runs_or_one_line_tells_why_not() {
    for args in [&[][..], &["-c", "3", "--timeout", "60s", "--report", "/dev/null"]] {
        let ran: Vec<_> = (3..=60)
            .map(|limit| {
                let limit = format!("--nofile={limit}");
                let outcome = finish(&mut under(&["prlimit", &limit], &hello(args)));
                ran_or_told(outcome, &["Too many open files"])
            })
            .collect();
        assert!(!ran[0] && ran[57], "{ran:?}");
        assert!(ran.is_sorted(), "More descriptors must not be worse: {ran:?}");
    }
}

#[test]
fn with_any_address_space_a_guest_runs_or_one_line_tells_why_not() {
    let limited = |limit: u64, command: &Command| under(&["prlimit", &format!("--as={limit}")], command);
    // With less, Linux does not even start the program.
    let starts = |limit: &u64| finish(&mut limited(*limit, &carpel(&["--version"]))).status == 0;
    let least = (1 << 20..64 << 20).step_by(STEP).find(starts).expect("carpel starts in 64 MiB");
    let ran: Vec<_> = (least..least + (48 << 20))
        .step_by(STEP)
        .map(|limit| {
            ran_or_told(finish(&mut limited(limit, &hello(&["-m", "16M", "-c", "4"]))), &["(os error", "ENOMEM"])
        })
        .collect();
    assert!(!ran[0] && ran.contains(&true), "{ran:?}");
}

#[test]
fn a_full_disk_loses_output_but_not_the_guest_and_serves_again_once_freed() {
    let mut command = carpel(&["run", "--console", "file=/mnt/log", "--timeout", "60s", "-k"]);
    command.arg(payload::path("flood"));
    let full = "mount -t tmpfs -o size=128k none /mnt; head -c 64K /dev/zero > /mnt/filler";
    let guest = Running::start(&mut in_namespace(full, &command));
    let inside = format!("/proc/{}/root/mnt", guest.pid());
    let log = || fs::metadata(format!("{inside}/log")).map_or(0, |log| log.len());
    let wait_until = |size: u64| {
        let started = Instant::now();
        while log() < size {
            assert!(started.elapsed() < Duration::from_secs(30), "{} of {size} bytes", log());
            thread::sleep(Duration::from_millis(5));
        }
    };
    wait_until(64 << 10);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(log(), 64 << 10);
    fs::remove_file(format!("{inside}/filler")).unwrap();
    wait_until(100 << 10);
    guest.signal(Signal::SIGTERM);
    let outcome = guest.finish().expect_status(143);
    assert!(outcome.stderr.lines().count() <= 3, "{outcome:#?}");
}

/// Whether the guest ran. If not, it must have been told in one line.
#[track_caller]
fn ran_or_told(outcome: Outcome, reasons: &[&str]) -> bool {
    if outcome.status == 0 {
        assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("Hello from a guest\n", ""));
        return true;
    }
    // Of several vCPUs, the first may have said its piece before the host has no room for the next.
    let line = complaint(outcome, 125);
    assert!(reasons.iter().any(|reason| line.contains(reason)), "{line}");
    false
}
