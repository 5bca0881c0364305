//! Where the time of a run went.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How many of the longest checks are named.
const LONGEST: usize = 5;

/// What took time.
#[derive(Debug)]
pub struct Part {
    name: String,
    time: Duration,
    /// Whether it ran while others did, and so does not add to the whole.
    beside: bool,
}

impl Part {
    /// A part that did nothing but wait for it to end, and what it came to.
    pub fn time<T>(name: impl Into<String>, work: impl FnOnce() -> T) -> (T, Self) {
        let started = Instant::now();
        let result = work();
        (result, Self { name: name.into(), time: started.elapsed(), beside: false })
    }

    /// The same part, of work in the background.
    pub fn beside_others(self) -> Self {
        Self { beside: true, ..self }
    }
}

/// The parts of a run, and its single checks.
#[derive(Debug, Default)]
pub struct Parts {
    parts: Vec<Part>,
    checks: Vec<(String, f64)>,
}

impl Parts {
    /// A part has ended.
    pub fn add(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// A check has ended that took so many seconds.
    pub fn check(&mut self, name: String, seconds: f64) {
        self.checks.push((name, seconds));
    }

    /// A table of the parts, the longest first, and the longest checks.
    pub fn table(&self) -> String {
        let mut parts: Vec<_> = self.parts.iter().collect();
        parts.sort_by_key(|part| Reverse(part.time));
        let mut checks: Vec<_> = self.checks.iter().collect();
        checks.sort_by(|(_, first), (_, second)| second.total_cmp(first));
        checks.truncate(LONGEST);

        let mut text = "| part | minutes |\n| --- | --- |\n".to_owned();
        for Part { name, time, beside } in parts {
            let beside = if *beside { ", beside others" } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {name}{beside} | {:.1} |", time.as_secs_f64() / 60.0);
        }
        text.push_str("\nThe longest checks, in seconds of their host:\n");
        for (name, seconds) in checks {
            let _ = writeln!(text, "   {seconds:6.1}  {name}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_come_first_and_what_ran_beside_others_is_told() {
        let part =
            |name: &str, minutes| Part { name: name.to_owned(), time: Duration::from_mins(minutes), beside: false };
        let mut parts = Parts::default();
        parts.add(part("tests", 3));
        parts.add(part("tiny kernel", 4).beside_others());
        parts.add(part("boots", 13));
        for seconds in 1..=7 {
            parts.check(format!("guest {seconds}"), f64::from(seconds));
        }
        let table = parts.table();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[2..5], ["| boots | 13.0 |", "| tiny kernel, beside others | 4.0 |", "| tests | 3.0 |"]);
        assert_eq!(lines[7..], (3..=7).rev().map(|n| format!("      {n}.0  guest {n}")).collect::<Vec<_>>());
    }
}
