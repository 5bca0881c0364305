//! `--report`: what scripts learn of a run beyond its status.

use std::fs;
use std::process::Stdio;

use jiff::Timestamp;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::tempdir;

use crate::guest::{Outcome, Running, command, run};
use crate::junit;

/// Runs a payload with a report of this name and returns both.
fn report(name: &str, payload: &str, args: &[&str]) -> (Outcome, String) {
    let directory = tempdir().unwrap();
    let file = directory.path().join(name);
    let path = file.to_str().unwrap();
    let outcome = run(payload, &[args, &["--report", path]].concat());
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {outcome:#?}"));
    (outcome, text)
}

fn json(payload: &str, args: &[&str]) -> (Outcome, Value) {
    let (outcome, text) = report("run.json", payload, args);
    let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (outcome, json)
}

#[test]
fn json_tells_what_ended_the_guest() {
    for (how, args, outcome) in [
        ("how=power-off", &["--timeout", "60s"][..], "power-off"),
        ("how=reset-cf9", &[], "reset"),
        ("how=pvpanic", &[], "panic"),
        // The same status as a dead guest's.
        ("how=debug-exit value=60", &[], "debug-exit"),
        ("how=triple-fault", &[], "died"),
        ("how=hang", &[], "unresponsive"),
        ("how=spin", &["--timeout", "200ms"], "timeout"),
        ("how=spin", &["--until", "ending"], "until"),
        ("how=spin", &["--fail-on", "ending"], "fail-on"),
    ] {
        let (run, json) = json("end", &[&["-a", how][..], args].concat());
        assert_eq!(json["outcome"], outcome, "{json:#}");
        assert_eq!(json["status"], run.status, "{json:#}");
    }
}

#[test]
fn json_counts_exits_and_bytes() {
    let (_, json) = json("serial_byte", &[]);
    // One byte and the reset.
    assert_eq!(json["exits"]["port"], 2, "{json:#}");
    assert_eq!(json["exits"]["mmio"], 0, "{json:#}");
    assert_eq!(json["console_bytes"], 1, "{json:#}");
    assert_eq!(json["unmapped_accesses"], 0, "{json:#}");
}

#[test]
fn json_counts_accesses_to_nothing() {
    let (_, json) = json("devices", &[]);
    // Seven reads and two writes.
    assert_eq!(json["unmapped_accesses"], 9, "{json:#}");
}

#[test]
fn junit_holds_one_verdict_by_the_rules_of_both_schemas() {
    for (how, args, outcome) in [
        ("how=power-off", &[][..], None),
        ("how=spin", &["--until", "ending"], None),
        ("how=spin", &["--fail-on", "ending"], Some(("failure", "fail-on"))),
        ("how=pvpanic", &[], Some(("failure", "panic"))),
        ("how=triple-fault", &[], Some(("failure", "died"))),
        ("how=hang", &[], Some(("failure", "unresponsive"))),
        ("how=spin", &["--timeout", "200ms"], Some(("failure", "timeout"))),
        ("how=debug-exit value=0", &[], Some(("failure", "debug-exit"))),
    ] {
        let (run, text) = report("run.xml", "end", &[&["-a", how][..], args].concat());
        let suite = junit::check(&text);
        let found = suite.outcome.as_ref().map(|(element, kind)| (element.as_str(), kind.as_str()));
        assert_eq!(found, outcome, "{text}");
        assert_eq!(outcome.is_some(), run.status != 0, "{text}");
        assert_eq!(suite.system_err, run.stderr, "{text}");
        let told = run.stderr.trim_start_matches("carpel: ").trim_end();
        assert!(suite.text.starts_with(told), "{text}");
        assert!(run.stdout.ends_with(&suite.system_out), "{text}");
        assert!(suite.properties.contains(&("status".into(), run.status.to_string())), "{text}");
    }
}

#[test]
fn a_signal_is_an_error_of_the_case() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("run.xml");
    let mut command = command("end", &["-a", "how=idle", "--report"]);
    let mut guest = Running::start(command.arg(&file).stdin(Stdio::null()));
    guest.wait_for("ending");
    guest.signal(Signal::SIGTERM);
    guest.finish().expect_status(143);
    let suite = junit::check(&fs::read_to_string(&file).unwrap());
    assert_eq!(suite.outcome, Some(("error".into(), "signal".into())));
}

#[test]
fn the_case_is_called_as_the_user_says_or_as_the_kernel_s_file() {
    for (args, name) in
        [(&[][..], "hello"), (&["--name", "boot <1>\t\"a\""], "boot <1>\t\"a\""), (&["--name", "-x"], "-x")]
    {
        let (_, text) = report("run.XML", "hello", args);
        assert_eq!(junit::check(&text).case, name);
        let (_, json) = json("hello", args);
        assert_eq!(json["name"], name);
    }
}

#[test]
fn json_says_when_the_run_began_and_what_the_user_was_told() {
    let before = Timestamp::now();
    let (run, json) = json("end", &["-a", "how=triple-fault"]);
    let start: Timestamp = json["start"].as_str().unwrap().parse().unwrap();
    // It is cut to milliseconds.
    assert!(start >= before - std::time::Duration::from_millis(1) && start <= Timestamp::now(), "{json:#}");
    assert_eq!(json["version"], 1);
    assert_eq!(run.stderr, format!("carpel: {}\n", json["message"].as_str().unwrap()));
    let keys = ["match", "console_tail", "seconds", "kernel", "cmdline", "layout", "mem", "cpus"];
    assert!(keys.iter().all(|&key| json.get(key).is_some()), "{json:#}");
}

#[test]
fn reports_hold_the_end_of_the_console() {
    let (_, text) = report("run.xml", "hello", &[]);
    assert_eq!(junit::check(&text).system_out, "Hello from a guest\n");
    let (run, json) = json("flood", &["--timeout", "6s"]);
    assert!(run.stdout.len() > 64 << 10, "{}", run.stdout.len());
    let tail = json["console_tail"].as_str().unwrap();
    assert_eq!(tail.len(), 64 << 10);
    // The last byte may have been judged and not written when time ran out.
    assert!(run.stdout.contains(&tail[..tail.len() - 1024]), "{tail}");
}
