//! Reports of runs that no guest need run for.

use std::time::Duration;

use carpel_testbed::payload;
use carpel_vmm::loader::Files;
use carpel_vmm::outcome::{Match, MatchOption, Outcome};
use carpel_vmm::plan::HostFacts;
use carpel_vmm::threads::ExitCounts;
use clap::Parser as _;
use serde_json::Value;

use super::rules::{self, Suite};
use super::*;
use crate::cli::{Cli, Command};

/// What both reports say of a run with this outcome and this end of the console.
fn reports(outcome: Outcome, matched: Option<Match>, console: &[u8]) -> (Suite, Value) {
    let kernel = payload::path("hello");
    let Command::Run(args) = Cli::parse_from(["carpel", "run", "-k", kernel.to_str().unwrap()]).command else {
        panic!("It is a run");
    };
    let config = crate::config::run(&args).unwrap();
    let host = HostFacts::assumed(config.layout().unwrap().arch);
    let plan = Plan::new(&config, Files::open(&config).unwrap().probe(&config, host).unwrap()).unwrap();
    let facts = Facts {
        outcome,
        duration: Duration::from_micros(1_234_567),
        exits: ExitCounts::default(),
        unmapped: 0,
        printed: console.len() as u64,
        matched,
        console_tail: console.to_vec(),
        map: None,
    };
    let message = facts.outcome.message();
    let start = "2026-02-28T23:59:59.9999Z".parse().unwrap();
    let run = Run { config: &config, plan: &plan, facts: &facts, message, name: default_name(&config), start };
    let junit = junit::write(&run);
    assert!(junit.contains("time=\"1.235\" timestamp=\"2026-02-28T23:59:59\""), "{junit}");
    let text = json::write(&run).unwrap();
    assert!(text.starts_with(json::BEGINNING), "{text}");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["start"], "2026-02-28T23:59:59.999Z");
    let suite = rules::check(&junit);
    assert_eq!((suite.case.as_str(), &json["name"]), ("hello", &"hello".into()));
    (suite, json)
}

#[test]
fn outcomes_are_passes_failures_or_errors() {
    let reason = || "reason".to_owned();
    let found = || Match { option: MatchOption::FailOn, pattern: "x".into(), port: "ttyS0".into(), line: "x".into() };
    for (outcome, element) in [
        (Outcome::PowerOff, None),
        (Outcome::Reset, None),
        (Outcome::Until, None),
        (Outcome::FailOn(found()), Some("failure")),
        (Outcome::UntilMissed(reason()), Some("failure")),
        (Outcome::Panicked, Some("failure")),
        (Outcome::Died(reason()), Some("failure")),
        (Outcome::Unresponsive(reason()), Some("failure")),
        (Outcome::TimedOut, Some("failure")),
        (Outcome::DebugExit(0), Some("failure")),
        // Statuses of these are those of signals and of a monitor that failed.
        (Outcome::DebugExit(62), Some("failure")),
        (Outcome::DebugExit(65), Some("failure")),
        (Outcome::Failed(reason()), Some("error")),
        (Outcome::Signal(15), Some("error")),
        (Outcome::Escape, Some("error")),
    ] {
        let (name, message) = (outcome.name(), outcome.message());
        let (junit, json) = reports(outcome, None, b"");
        assert_eq!(junit.outcome, element.map(|element| (element.to_owned(), name.to_owned())));
        assert_eq!((json["outcome"].as_str(), json["message"].as_str()), (Some(name), message.as_deref()));
        assert_eq!(junit.system_err, message.map(|message| format!("carpel: {message}\n")).unwrap_or_default());
    }
}

#[test]
fn any_console_makes_valid_reports() {
    let every_byte: Vec<_> = (0..=255).collect();
    for console in [
        &every_byte[..],
        b"]]></system-out><testcase/>&#0;&amp;<![CDATA[x]]>",
        b"\xC3\xBC \xFF\xFE \xEF\xBF\xBE\xEF\xBF\xBF \xED\xA0\x80 \x85",
        &b"\r".repeat(1 << 16),
        &b"\0".repeat(1 << 16),
        &b"\x1B[".repeat(1 << 15),
    ] {
        let (junit, json) = reports(Outcome::Panicked, None, console);
        assert!(!junit.system_out.contains('\r'), "{junit:?}");
        assert_eq!(json["console_tail"], String::from_utf8_lossy(console).into_owned());
    }
    let (junit, json) = reports(Outcome::PowerOff, None, b"\xBCn \x1b[32mok\x1b[0m\r\n<]]>\0\n");
    assert_eq!(junit.system_out, "n ok\n<]]>\u{FFFD}\n");
    assert_eq!(json["console_tail"], "n \u{1b}[32mok\u{1b}[0m\r\n<]]>\0\n");
}

#[test]
fn a_match_is_told_with_all_that_followed_it() {
    let matched = Match {
        option: MatchOption::FailOn,
        pattern: "BUG:|<x>".into(),
        port: "serial".into(),
        line: "BUG: \"null\"".into(),
    };
    let console = format!("{}BUG: \"null\"\r\n  trace\r\n---[ end\r\n", "before\r\n".repeat(10));
    let outcome = Outcome::FailOn(matched.clone());
    let (junit, json) = reports(outcome, Some(matched), console.as_bytes());
    assert!(junit.text.ends_with("\n\nBUG: \"null\"\n  trace\n---[ end"), "{}", junit.text);
    assert!(!junit.text.contains("before"), "{}", junit.text);
    let expected = [("option", "--fail-on"), ("pattern", "BUG:|<x>"), ("port", "serial"), ("line", "BUG: \"null\"")];
    for (key, value) in expected {
        assert_eq!(json["match"][key], value);
        assert!(junit.properties.contains(&(format!("match.{key}"), value.into())), "{:?}", junit.properties);
    }
}

#[test]
fn a_failure_without_a_match_shows_the_last_lines() {
    let lines: Vec<_> = (0..1000).map(|line| format!("line {line}")).collect();
    let console = lines.join("\n") + "\n";
    let (junit, json) = reports(Outcome::TimedOut, None, console.as_bytes());
    let lines: Vec<_> = junit.text.lines().skip(2).collect();
    assert_eq!((lines.len(), lines[0], lines[99]), (100, "line 900", "line 999"));
    assert_eq!(junit.system_out, console);
    assert_eq!(json["match"], Value::Null);
}
