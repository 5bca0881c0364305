//! Reading the guest's console for a verdict: patterns of the user, and a kernel's last words.

use std::sync::Arc;

use regex_automata::meta::{BuildError, Regex};
use regex_automata::{Anchored, Input};
use thiserror::Error;

use crate::config::Limits;
use crate::outcome::{Ending, Outcome};

/// How much of a line is kept, in bytes: its end. A guest that never ends a line must not grow the monitor.
const LINE_MAX: usize = 4096;
/// How a Linux kernel's panic message starts (kernel/panic.c).
const PANIC: &[u8] = b"Kernel panic - not syncing";
/// What it prints after all else (kernel/panic.c).
const PANIC_END: &[u8] = b"---[ end Kernel panic";

/// A pattern that is none.
#[derive(Debug, Error)]
#[error("`{pattern}` is not a regular expression: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

/// Watches one port of the console. Every byte is judged when it comes, so outcomes stand in the order in which the guest caused
/// them.
#[derive(Clone, Debug)]
pub struct Watch {
    ending: Arc<Ending>,
    until: Option<Regex>,
    fail_on: Option<Regex>,
    line: Vec<u8>,
}

impl Watch {
    /// Compiles the patterns.
    pub fn new(limits: &Limits, ending: Arc<Ending>) -> Result<Self, PatternError> {
        let compile = |pattern: &Option<String>| pattern.as_deref().map(compile).transpose();
        Ok(Self { ending, until: compile(&limits.until)?, fail_on: compile(&limits.fail_on)?, line: Vec::new() })
    }

    /// Takes what the guest printed.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.judge(true);
                self.line.clear();
            } else {
                self.push(byte);
                self.judge(false);
            }
        }
    }

    fn push(&mut self, byte: u8) {
        if self.line.len() == LINE_MAX {
            // Halving keeps the cost of a byte constant.
            self.line.drain(..LINE_MAX / 2);
        }
        self.line.push(byte);
    }

    fn judge(&mut self, complete: bool) {
        if self.line.ends_with(PANIC) {
            self.ending.note_panic();
        } else if self.line.ends_with(PANIC_END) {
            self.ending.end(Outcome::Panicked);
        }
        if self.fail_on.is_some() || self.until.is_some() {
            self.match_patterns(complete);
        }
    }

    /// A failure counts before a success on the same byte: a verdict errs on the side of caution.
    fn match_patterns(&mut self, complete: bool) {
        let matches = |pattern: &Option<Regex>, line: &mut Vec<u8>| {
            pattern.as_ref().is_some_and(|pattern| is_match(pattern, line, complete))
        };
        if matches(&self.fail_on, &mut self.line) {
            self.ending.end(Outcome::FailOn(printable(&self.line)));
        } else if matches(&self.until, &mut self.line) {
            self.ending.end(Outcome::Until);
        }
    }
}

fn compile(pattern: &str) -> Result<Regex, PatternError> {
    Regex::new(pattern).map_err(|error| PatternError { pattern: pattern.into(), reason: reason(&error) })
}

/// What is wrong with a pattern, without the picture of it that goes over several lines.
fn reason(error: &BuildError) -> String {
    let text = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
    text.lines().next_back().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Whether the pattern matches the line. Of an unfinished line, only if no next byte could undo it: a prompt matches
/// at once, but `ok$` and `ok\b` do not match the start of `okay`.
fn is_match(pattern: &Regex, line: &mut Vec<u8>, complete: bool) -> bool {
    if complete {
        let end = line.len() - usize::from(line.last() == Some(&b'\r'));
        return pattern.is_match(&line[..end]);
    }
    // Anchors look at the bytes around the searched span: let a letter and then a space follow it.
    let end = line.len();
    b"a ".iter().all(|&next| {
        line.push(next);
        let input = Input::new(line.as_slice()).span(0..end).anchored(Anchored::No);
        let matched = pattern.is_match(input);
        line.pop();
        matched
    })
}

/// A line of the guest's without what could steer a terminal.
fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|char| !char.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(until: &str, fail_on: &str, output: &[u8]) -> Option<Outcome> {
        let pattern = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let limits = Limits { until: pattern(until), fail_on: pattern(fail_on), ..Limits::default() };
        let ending = Arc::new(Ending::new().unwrap());
        Watch::new(&limits, Arc::clone(&ending)).unwrap().feed(output);
        ending.outcome()
    }

    #[test]
    fn a_prompt_matches_without_a_line_end() {
        assert_eq!(outcome("login:|# ", "", b"Debian\r\nlogin:"), Some(Outcome::Until));
        assert_eq!(outcome("login:|# ", "", b"/ # "), Some(Outcome::Until));
        assert_eq!(outcome("login:", "", b"log\nin:"), None);
    }

    #[test]
    fn anchors_wait_for_the_end_of_the_line() {
        assert_eq!(outcome("ok$", "", b"okay\n"), None);
        assert_eq!(outcome("ok$", "", b"ok"), None);
        assert_eq!(outcome("^ok$", "", b"ok\r\n"), Some(Outcome::Until));
        assert_eq!(outcome(r"ok\b", "", b"okay\n"), None);
        assert_eq!(outcome(r"ok\b", "", b"ok "), Some(Outcome::Until));
    }

    #[test]
    fn failure_wins_on_the_same_byte_and_names_its_line() {
        assert_eq!(outcome("x", "x", b"a\x1b[0mx"), Some(Outcome::FailOn("a[0mx".into())));
        assert_eq!(outcome("a", "x", b"ax"), Some(Outcome::Until));
    }

    #[test]
    fn a_wrong_pattern_is_told_in_one_line() {
        let limits = Limits { until: Some("(".into()), ..Limits::default() };
        let error = Watch::new(&limits, Arc::new(Ending::new().unwrap())).unwrap_err();
        assert_eq!(error.to_string(), "`(` is not a regular expression: unclosed group");
    }

    #[test]
    fn a_panic_is_noted_and_its_end_ends_the_run() {
        let ending = Arc::new(Ending::new().unwrap());
        let mut watch = Watch::new(&Limits::default(), Arc::clone(&ending)).unwrap();
        watch.feed(b"[ 1.0] Kernel panic - not syncing: VFS\n");
        assert!(ending.dying() && !ending.ended());
        watch.feed(b"[ 1.1] ---[ end Kernel panic - not syncing: VFS ]---");
        assert_eq!(ending.outcome(), Some(Outcome::Panicked));
    }

    #[test]
    fn an_endless_line_is_bounded_and_still_matches() {
        let ending = Arc::new(Ending::new().unwrap());
        let mut watch = Watch::new(&Limits::default(), Arc::clone(&ending)).unwrap();
        watch.feed(&[b'x'; 3 * LINE_MAX]);
        assert!(watch.line.capacity() <= 2 * LINE_MAX);
        watch.feed(PANIC);
        assert!(ending.dying());
    }
}
