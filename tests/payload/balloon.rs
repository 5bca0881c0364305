//! Memory that a guest does not need is the host's again.

use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;

use crate::guest::{MACHINES, Running, command};

/// What the guest uses and gives up, in bytes.
pub const USED: u64 = 32 << 20;
/// What else may come and go meanwhile.
const SLACK: u64 = 4 << 20;

/// What the guest does, and whether it uses its memory then.
type Step = (&'static str, bool);
const STEPS: [Step; 4] = [("used", true), ("inflated", false), ("used again", true), ("reported", false)];

/// The guest at the first of its steps; it goes on by a key.
pub fn start(machine: &[&str]) -> Running {
    let arguments = ["--announce", "cmdline", "--device", "balloon,size=32M"];
    let mut guest = Running::start(command("balloon", &arguments).args(machine).stdin(Stdio::piped()));
    guest.wait_for("start?\n");
    guest
}

/// Follows a guest through its steps to its end; what the host has in use for it is measured at each.
pub fn follow(mut guest: Running, steps: &[Step], measure: impl Fn(u32) -> u64) {
    let before = measure(guest.pid());
    for &(step, uses) in steps {
        guest.write(b"\n");
        guest.wait_for(&format!("{step}?\n"));
        let (measured, expected) = (measure(guest.pid()), before + if uses { USED } else { 0 });
        assert!(measured.abs_diff(expected) < SLACK, "{step}: {measured}, not {expected}; {before} before");
    }
    guest.write(b"\n");
    let outcome = guest.finish().expect_status(0);
    assert!(outcome.stdout.starts_with("target 8192\n"), "{outcome:#?}");
    assert!(outcome.stdout.ends_with("ok works-again\n"), "{outcome:#?}");
    assert!(!outcome.stdout.contains("FAIL"), "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "one fault was told: {outcome:#?}");
}

#[test]
fn memory_that_the_guest_gives_up_goes_back_to_the_host() {
    for machine in [MACHINES[0], MACHINES[3]] {
        follow(start(&machine), &STEPS, resident);
    }
}

/// Dropped from the process's address space alone, a memfd's pages would still be there.
#[test]
fn shared_memory_that_the_guest_gives_up_leaves_the_memfd() {
    for measure in [resident, in_memfd] {
        follow(start(&[&MACHINES[0][..], &["--shared-memory"]].concat()), &STEPS, measure);
    }
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> u64 {
    in_use(pid, "Rss:")
}

/// A number of bytes that Linux counts for a process.
pub fn in_use(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("carpel runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux counts it");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("A number of KiB");
    kib << 10
}

/// Bytes that the memfd of a guest's memory holds.
fn in_memfd(pid: u32) -> u64 {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("carpel runs").map(|entry| entry.unwrap().path());
    let is_ram = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:guest-ram"))
    };
    let mut rams = files.filter(is_ram);
    let ram = rams.next().expect("The memory is a memfd");
    assert_eq!(rams.next(), None, "one holds all");
    std::fs::metadata(ram).unwrap().blocks() * 512
}
