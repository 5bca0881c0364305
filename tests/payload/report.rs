//! `--report`: what scripts learn of a run beyond its status.

use std::fs;

use serde_json::Value;
use tempfile::tempdir;

use crate::guest::{Outcome, run};

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
fn junit_has_one_case_that_passed_or_failed() {
    let (_, passed) = report("run.xml", "hello", &[]);
    assert!(
        passed.contains("<testcase ") && passed.contains("failures=\"0\"") && !passed.contains("<failure"),
        "{passed}"
    );
    let (_, failed) = report("run.xml", "end", &["-a", "how=triple-fault"]);
    assert!(failed.contains("failures=\"1\"") && failed.contains("<failure type=\"died\""), "{failed}");
}
