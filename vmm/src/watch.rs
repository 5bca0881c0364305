//! Reading the guest's console for a verdict: patterns of the user, and a kernel's last words.

use std::error::Error;
use std::sync::Arc;

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};
use thiserror::Error as ThisError;

use crate::config::Limits;
use crate::outcome::{Outcome, Shutdown};

/// How much of a line is kept, in bytes: its end. A guest that never ends a line must not grow the monitor.
const LINE_MAX: usize = 4096;
/// The most that a pattern may take once compiled, in bytes: what the regex crate allows as well.
const PATTERN_MAX: usize = 10 << 20;
/// How a Linux kernel's panic message starts (kernel/panic.c).
const PANIC: &[u8] = b"Kernel panic - not syncing";
/// What it prints after all else (kernel/panic.c).
const PANIC_END: &[u8] = b"---[ end Kernel panic";

/// A pattern that is none.
#[derive(Debug, ThisError)]
#[error("`{pattern}` is not a regular expression: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

/// Watches one port of the console. Every byte is judged when it comes, so outcomes stand in the order in which the guest caused
/// them.
#[derive(Clone, Debug)]
pub struct Watch {
    shutdown: Arc<Shutdown>,
    until: Option<Pattern>,
    fail_on: Option<Pattern>,
    line: Vec<u8>,
}

impl Watch {
    /// Compiles the patterns.
    pub fn new(limits: &Limits, shutdown: Arc<Shutdown>) -> Result<Self, PatternError> {
        let compile = |pattern: &Option<String>| pattern.as_deref().map(Pattern::new).transpose();
        Ok(Self { shutdown, until: compile(&limits.until)?, fail_on: compile(&limits.fail_on)?, line: Vec::new() })
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
            self.shutdown.note_panic();
        } else if self.line.ends_with(PANIC_END) {
            self.shutdown.end(Outcome::Panicked);
        }
        if self.fail_on.is_some() || self.until.is_some() {
            self.match_patterns(complete);
        }
    }

    /// A failure counts before a success on the same byte: a verdict errs on the side of caution.
    fn match_patterns(&mut self, complete: bool) {
        let line = &mut self.line;
        let mut matches =
            |pattern: &mut Option<Pattern>| pattern.as_mut().is_some_and(|pattern| pattern.is_match(line, complete));
        if matches(&mut self.fail_on) {
            self.shutdown.end(Outcome::FailOn(printable(&self.line)));
        } else if matches(&mut self.until) {
            self.shutdown.end(Outcome::Until);
        }
    }
}

/// A regular expression on bytes, which a console's are, whatever their encoding: classes such as `\w` and `(?i)` know
/// ASCII only. The tables of Unicode would be a tenth of the program, and its start would pay for them (docs/performance.md).
#[derive(Clone, Debug)]
struct Pattern {
    dfa: DFA,
    cache: Cache,
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, PatternError> {
        let dfa = DFA::builder()
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(PATTERN_MAX)))
            .build(pattern)
            .map_err(|error| PatternError { pattern: pattern.into(), reason: reason(&error) })?;
        let cache = dfa.create_cache();
        Ok(Self { dfa, cache })
    }

    /// Whether it matches the line. Of an unfinished line, only if no next byte could undo it: a prompt matches at once,
    /// but `ok$` and `ok\b` do not match the start of `okay`.
    fn is_match(&mut self, line: &mut Vec<u8>, complete: bool) -> bool {
        if complete {
            let end = line.len() - usize::from(line.last() == Some(&b'\r'));
            return self.find(Input::new(&line[..end]));
        }
        // Anchors look at the bytes around the searched span: let a letter and then a space follow it.
        let end = line.len();
        b"a ".iter().all(|&next| {
            line.push(next);
            let matched = self.find(Input::new(line.as_slice()).span(0..end));
            line.pop();
            matched
        })
    }

    fn find(&mut self, input: Input<'_>) -> bool {
        let input = input.anchored(Anchored::No).earliest(true);
        // It fails only where it was configured to give up.
        self.dfa.try_search_fwd(&mut self.cache, &input).is_ok_and(|found| found.is_some())
    }
}

/// What is wrong with a pattern, without the picture of it that goes over several lines.
fn reason(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    text.lines().next_back().unwrap_or_default().trim_start_matches("error: ").to_owned()
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
        let shutdown = Arc::new(Shutdown::new().unwrap());
        Watch::new(&limits, Arc::clone(&shutdown)).unwrap().feed(output);
        shutdown.outcome()
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
        let error = Watch::new(&limits, Arc::new(Shutdown::new().unwrap())).unwrap_err();
        assert_eq!(error.to_string(), "`(` is not a regular expression: unclosed group");
    }

    #[test]
    fn patterns_match_bytes() {
        assert_eq!(outcome("grün.*x", "", "grün\u{e9}x".as_bytes()), Some(Outcome::Until));
        assert_eq!(outcome("(?i)READY.", "", b"ready\xFF"), Some(Outcome::Until));
        assert_eq!(outcome(r"^\w+$", "", "é\n".as_bytes()), None);
    }

    #[test]
    fn a_panic_is_noted_and_its_end_ends_the_run() {
        let shutdown = Arc::new(Shutdown::new().unwrap());
        let mut watch = Watch::new(&Limits::default(), Arc::clone(&shutdown)).unwrap();
        watch.feed(b"[ 1.0] Kernel panic - not syncing: VFS\n");
        assert!(shutdown.dying() && !shutdown.ended());
        watch.feed(b"[ 1.1] ---[ end Kernel panic - not syncing: VFS ]---");
        assert_eq!(shutdown.outcome(), Some(Outcome::Panicked));
    }

    #[test]
    fn an_endless_line_is_bounded_and_still_matches() {
        let shutdown = Arc::new(Shutdown::new().unwrap());
        let mut watch = Watch::new(&Limits::default(), Arc::clone(&shutdown)).unwrap();
        watch.feed(&[b'x'; 3 * LINE_MAX]);
        assert!(watch.line.capacity() <= 2 * LINE_MAX);
        watch.feed(PANIC);
        assert!(shutdown.dying());
    }
}
