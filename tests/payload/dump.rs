//! `--dump-map-on-exit` and SIGUSR1: a guest's maps, seen from outside.

use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::guest::{LAYOUTS, Running, command, finish, run};

/// Lines with one space where there are several, for columns are as wide as their contents.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_hung_guests_own_map_is_shown() {
    for layout in LAYOUTS {
        let args = ["--layout", layout, "-c", "2", "-a", "hang=1", "--dump-map-on-exit"];
        let outcome = run("map_higher_half", &args).expect_status(122);
        assert!(outcome.stdout.ends_with("hanging\n"), "{outcome:#?}");
        let lines = lines(&outcome.stderr);
        for expected in [
            &format!("Guest physical map: x86_64 {layout}, 1 GiB of RAM"),
            "0xF_0000 0x10_0000 64 KiB claim mptable",
            "device: serial at ports 0x3f8-0x400",
            "Virtual map of vCPU 1: Paging is off (CR0 0x60000010, EFER 0x0)",
            "0xFFFF_FFFF_8400_0000 0xFFFF_FFFF_8401_0000 64 KiB rwx-",
            "0x7FFE_FFFF_C000 0x7FFF_0000_0000 16 KiB rwxu",
            "0x40_0000 0x40_1000 4 KiB rwxu",
            "0xFFFF_FFFF_FF60_0000 0xFFFF_FFFF_FF80_0000 2 MiB rwx- page tables (recursive)",
        ] {
            assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected:?} in {lines:#?}");
        }
        // The kernel's text cannot be written, and a guard page is no part of any range.
        assert!(lines.iter().any(|line| line.contains(" r-x- 0x10_1000 kernel at -2 GiB, kernel")), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.starts_with("0x0 ") && line.contains("rw")), "{lines:#?}");
    }
}

#[test]
fn a_large_map_is_one_line() {
    let outcome = run("map_exokernel", &["--dump-map-on-exit"]).expect_status(0);
    let expected = "0x0 0x1_0000_0000 4 GiB rwx- 0x0 identity, low_ram, pci_hole, mmio_window, firmware";
    assert!(lines(&outcome.stderr).iter().any(|line| line == expected), "{outcome:#?}");
}

#[test]
fn a_signal_shows_the_maps_of_a_guest_that_goes_on() {
    let mut guest = Running::start(command("end", &["-a", "how=spin", "--timeout", "60s"]).stdin(Stdio::null()));
    guest.wait_for("ending\n");
    // Registers are asked for four times a second.
    thread::sleep(Duration::from_secs(1));
    guest.signal(Signal::SIGUSR1);
    thread::sleep(Duration::from_millis(500));
    guest.signal(Signal::SIGTERM);
    let outcome = guest.finish().expect_status(143);
    let lines = lines(&outcome.stderr);
    assert!(lines.iter().any(|line| line == "0x0 0x4000_0000 1 GiB rwx- 0x0 identity, low_ram"), "{lines:#?}");
}

#[test]
fn nothing_is_shown_unasked() {
    assert_eq!(finish(&mut command("hello", &[])).expect_status(0).stderr, "");
}
