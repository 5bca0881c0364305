//! Memory that a guest does not need is the host's again.

use std::process::Stdio;

use crate::guest::{MACHINES, Running, command};

/// What the guest uses and gives up, in bytes.
const USED: u64 = 32 << 20;
/// What else may come and go meanwhile.
const SLACK: u64 = 4 << 20;

#[test]
fn memory_that_the_guest_gives_up_goes_back_to_the_host() {
    for machine in [MACHINES[0], MACHINES[3]] {
        let arguments = ["--announce", "cmdline", "--device", "balloon,size=32M"];
        let mut guest = Running::start(command("balloon", &arguments).args(machine).stdin(Stdio::piped()));
        let mut resident_at = |step: &str| {
            guest.wait_for(&format!("{step}?\n"));
            let resident = resident(guest.pid());
            guest.write(b"\n");
            resident
        };
        let before = resident_at("start");
        for (step, uses) in [("used", true), ("inflated", false), ("used again", true), ("reported", false)] {
            let expected = before + if uses { USED } else { 0 };
            let resident = resident_at(step);
            assert!(resident.abs_diff(expected) < SLACK, "{step}: {resident}, not {expected}; {before} before");
        }
        let outcome = guest.finish().expect_status(0);
        assert!(outcome.stdout.starts_with("target 8192\n"), "{outcome:#?}");
        assert!(outcome.stdout.ends_with("ok works-again\n"), "{outcome:#?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "one fault was told: {outcome:#?}");
    }
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("carpel runs");
    let line = status.lines().find_map(|line| line.strip_prefix("Rss:")).expect("It has resident memory");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("A number of KiB");
    kib << 10
}
