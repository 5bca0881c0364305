//! Each way for a guest to end, and its exit status.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::guest::{MACHINES, Outcome, Running, command, finish, run};

fn end(how: &str, args: &[&str]) -> Outcome {
    finish(command("end", &["-a", how]).args(args).stdin(Stdio::null()))
}

#[test]
fn power_off_and_resets_give_0() {
    for machine in MACHINES {
        for how in ["how=power-off", "how=reset-cf9", "how=reset-i8042"] {
            let outcome = end(how, &machine).expect_status(0);
            assert_eq!(outcome.stdout, "ending\n", "{how} {machine:?}");
        }
    }
}

#[test]
fn debug_exit_gives_its_value_doubled_and_odd() {
    for (value, status) in [(0, 1), (5, 11), (127, 255)] {
        end(&format!("how=debug-exit value={value}"), &[]).expect_status(status);
    }
}

#[test]
fn a_panic_gives_120_whatever_follows() {
    for how in [
        "how=pvpanic",
        "how=crash-loaded",
        "say=panic how=spin",
        "say=panic how=hang",
        "say=panic how=power-off",
        "say=panic how=reset-cf9",
        "say=panic how=triple-fault",
    ] {
        end(how, &["--timeout", "20s"]).expect_status(120);
    }
}

#[test]
fn a_guest_that_goes_on_to_its_crash_kernel_may() {
    let outcome = end("how=crash-loaded", &[]).expect_status(120);
    assert_eq!(outcome.stdout, "ending\ncrash kernel\n");
}

#[test]
fn a_triple_fault_gives_121_and_says_so() {
    for machine in MACHINES {
        let outcome = end("how=triple-fault", &machine).expect_status(121);
        assert!(outcome.stderr.starts_with("carpel: ") && outcome.stderr.contains("riple fault"), "{outcome:#?}");
    }
}

#[test]
fn what_kvm_cannot_go_on_with_gives_121_with_registers() {
    let outcome = end("how=internal-error", &[]).expect_status(121);
    assert!(outcome.stderr.starts_with("carpel: ") && outcome.stderr.contains("rip"), "{outcome:#?}");
}

#[test]
fn a_hung_guest_gives_122() {
    for machine in MACHINES {
        end("how=hang", &machine).expect_status(122);
        end("how=hang", &[&machine[..], &["-c", "3"]].concat()).expect_status(122);
    }
}

#[test]
fn an_idle_or_busy_guest_is_left_alone_until_the_timeout() {
    for how in ["how=idle", "how=spin"] {
        let outcome = end(how, &["--timeout", "1500ms"]).expect_status(124);
        assert!(outcome.elapsed >= Duration::from_millis(1500), "{outcome:#?}");
        assert!(outcome.elapsed < Duration::from_secs(10), "{outcome:#?}");
        assert_eq!(outcome.stdout, "ending\n");
        assert_eq!(outcome.stderr, "carpel: The guest ran longer than --timeout\n");
    }
}

#[test]
fn a_silent_guest_gives_122_with_the_watchdog() {
    end("how=spin", &["--watchdog", "500ms"]).expect_status(122);
}

#[test]
fn until_and_fail_on_match_unfinished_lines() {
    let args = ["--until", "login: ", "--fail-on", "ending", "--timeout", "20s"];
    let outcome = end("say=login how=spin", &args).expect_status(0);
    assert_eq!(outcome.stdout, "login: ");
    end("how=spin", &args).expect_status(123);
}

#[test]
fn a_flood_matches_and_ends() {
    let outcome = run("flood", &["--until", "line 500 "]).expect_status(0);
    assert!(outcome.stdout.starts_with("line 0 of a flood"), "{outcome:#?}");
    run("flood", &["--timeout", "1s"]).expect_status(124);
}

#[test]
fn signals_give_128_and_their_number() {
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
        for how in ["how=idle", "how=spin"] {
            let mut guest = Running::start(command("end", &["-a", how]).stdin(Stdio::null()));
            guest.wait_for("ending\n");
            guest.signal(signal);
            guest.finish().expect_status(status);
        }
    }
}
