//! virtio devices as a guest's driver finds them, and as one that lies does.

use crate::guest::{MACHINES, command, finish, run};

#[test]
fn the_entropy_device_answers_and_survives_what_drivers_do_wrong() {
    for machine in MACHINES {
        let outcome = finish(command("rng", &["--announce", "cmdline"]).args(machine)).expect_status(0);
        assert_eq!(outcome.stdout.matches("ok works-again").count(), 4, "{machine:?}: {outcome:#?}");
        assert!(outcome.stdout.ends_with("ok works-after-resets\n"), "{machine:?}: {outcome:#?}");
        // The guest does wrong more often than it is told of.
        assert_eq!(outcome.stderr.matches("misbehaves").count(), 3, "{machine:?}: {outcome:#?}");
    }
}

/// What carpel logs of a guest is for a reader, who must not drown in it.
#[test]
fn a_guest_causes_at_most_100_log_lines_a_second() {
    const REFUSALS: u64 = 20_000;
    let log = format!("log={REFUSALS}");
    for level in ["-v", "-vv"] {
        let outcome = run("rng", &["--announce", "cmdline", level, "-a", &log]).expect_status(0);
        let seconds = outcome.elapsed.as_secs() + 2;
        let printed = outcome.stderr.lines().count() as u64;
        assert!(printed <= 100 * seconds, "{printed} lines in less than {seconds} seconds");
        let told = outcome.stderr.lines().filter_map(|line| line.split_once("Log lines left out here: "));
        let left_out: u64 = told.map(|(_, rest)| rest.split(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert!(printed + left_out >= REFUSALS, "{printed} printed, {left_out} counted");
    }
}

#[test]
fn every_interrupt_of_a_layout_serves_a_device() {
    let devices = ["--device", "rng"].repeat(15);
    let outcome = finish(command("rng", &["--announce", "cmdline", "-a", "skip=14"]).args(&devices)).expect_status(0);
    assert!(outcome.stdout.ends_with("ok works-after-resets\n"), "{outcome:#?}");
}

#[test]
fn one_device_more_than_there_are_interrupts_is_a_wrong_command_line() {
    let devices = ["--device", "rng"].repeat(16);
    let outcome = run("hello", &devices).expect_status(2);
    let says = "carpel: There is no room for device 18 (`rng`): the layout `krun` has 17 windows with an interrupt\n";
    assert_eq!(outcome.stderr, says);
}

#[test]
fn a_dry_run_shows_each_device_with_its_address_and_interrupt() {
    let outcome = run("hello", &["--dry-run", "--device", "rng,rate=1M", "--device", "rng"]).expect_status(0);
    let devices = [("balloon", 5), ("console", 6), ("rng", 7), ("rng", 10)];
    for (place, (device, irq)) in (1..).zip(devices) {
        let line = format!("\ndevice: {device} at 0xFEC0_{place}000-0xFEC0_{}000, IRQ {irq}\n", place + 1);
        assert!(outcome.stdout.contains(&line), "{outcome:#?}");
    }
    let off = devices.map(|(device, _)| format!("--device={device},off"));
    let outcome = run("hello", &[&["--dry-run"], &off.each_ref().map(String::as_str)[..]].concat()).expect_status(0);
    assert!(devices.iter().all(|(device, _)| !outcome.stdout.contains(&format!("device: {device}"))), "{outcome:#?}");
}

#[test]
fn devices_are_announced_once() {
    let outcome = run("hello", &["--dry-run", "--announce", "cmdline"]).expect_status(0);
    assert!(
        outcome.stdout.contains(" virtio_mmio.device=4K@0xfec02000:6 virtio_mmio.device=4K@0xfec03000:7\n"),
        "{outcome:#?}"
    );
    assert!(!run("hello", &["--dry-run"]).expect_status(0).stdout.contains("virtio_mmio"));
    for (announce, nodes) in [("tables", "3"), ("cmdline", "0")] {
        let outcome = run("tables", &["--announce", announce]).expect_status(0);
        assert_eq!(outcome.values("virtio").next().unwrap(), [nodes], "{announce}: {outcome:#?}");
    }
}
