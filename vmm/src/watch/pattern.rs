//! The user's regular expressions, searched for as bytes come.

use std::error::Error;

use regex_automata::Input;
use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use thiserror::Error as ThisError;

/// The most that patterns may take once compiled, in bytes: what the regex crate allows as well.
const PATTERN_MAX: usize = 10 << 20;

/// A pattern that is none.
#[derive(Debug, ThisError)]
#[error("`{pattern}` is not a regular expression: {reason}")]
pub struct PatternError {
    pattern: String,
    reason: String,
}

/// Regular expressions on bytes, which a console's are, whatever their encoding: classes such as `\w` and `(?i)` know
/// ASCII only. The tables of Unicode would be a tenth of the program, and its start would pay for them (docs/performance.md).
/// However many there are, they are one automaton, which takes one step for a byte.
#[derive(Debug)]
pub(super) struct Patterns {
    dfa: DFA,
    texts: Vec<String>,
}

impl Patterns {
    /// Compiles them; none if there are none.
    pub(super) fn new(texts: &[String]) -> Result<Option<Self>, PatternError> {
        if texts.is_empty() {
            return Ok(None);
        }
        // An error of all of them together would not say whose it is.
        let wrong = || texts.iter().find_map(|text| compile(&[text]).err());
        let dfa = compile(texts).map_err(|error| wrong().unwrap_or(error))?;
        Ok(Some(Self { dfa, texts: texts.to_vec() }))
    }

    /// The pattern of this number.
    pub(super) fn text(&self, number: usize) -> &str {
        self.texts.get(number).map_or("", String::as_str)
    }
}

fn compile<T: AsRef<str>>(texts: &[T]) -> Result<DFA, PatternError> {
    let error = |error: &dyn Error| {
        let pattern = texts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("`, `");
        PatternError { pattern, reason: reason(error) }
    };
    DFA::builder()
        .syntax(syntax::Config::new().unicode(false).utf8(false))
        .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(PATTERN_MAX)))
        .build_many(texts)
        .map_err(|cause| error(&cause))
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

/// A match in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The number of its pattern.
    pub(super) pattern: usize,
    /// Where in the line it was noticed, in bytes from its start.
    pub(super) at: usize,
}

/// The search in one line. Each byte of it is looked at once.
#[derive(Debug)]
pub(super) struct Search {
    cache: Cache,
    /// None where no further byte can lead to a match.
    state: Option<LazyStateID>,
    found: Option<Found>,
}

impl Search {
    /// A search from the start of a line.
    pub(super) fn new(patterns: &Patterns) -> Self {
        let mut search = Self { cache: patterns.dfa.create_cache(), state: None, found: None };
        search.restart(patterns);
        search
    }

    /// Another line starts.
    pub(super) fn restart(&mut self, patterns: &Patterns) {
        // It fails where the automaton was configured to give up, which it was not.
        self.state = patterns.dfa.start_state_forward(&mut self.cache, &Input::new(b"")).ok();
        self.found = None;
    }

    /// Takes the line's next byte, which is number `at`.
    pub(super) fn step(&mut self, patterns: &Patterns, byte: u8, at: usize) {
        let Some(state) = self.state else { return };
        match patterns.dfa.next_state(&mut self.cache, state, byte) {
            Ok(next) if !next.is_tagged() => self.state = Some(next),
            Ok(next) => {
                self.found = found(patterns, &self.cache, next, at);
                self.state = Some(next).filter(|next| self.found.is_none() && !next.is_dead() && !next.is_quit());
            }
            Err(_) => self.state = None,
        }
    }

    /// What was found before the byte that came last, to which an automaton's matches lag behind.
    pub(super) const fn found(&self) -> Option<Found> {
        self.found
    }

    /// What is found if the line ends here, with `at` bytes. The search must be restarted after it.
    pub(super) fn end(&mut self, patterns: &Patterns, at: usize) -> Option<Found> {
        self.found.or_else(|| end(patterns, &mut self.cache, self.state?, at))
    }

    /// The same, of a search that may go on.
    pub(super) fn would_end(&self, patterns: &Patterns, at: usize) -> Option<Found> {
        // The automaton may make room for a new state by forgetting those that were there: not ours.
        self.found.or_else(|| end(patterns, &mut self.cache.clone(), self.state?, at))
    }
}

fn end(patterns: &Patterns, cache: &mut Cache, state: LazyStateID, at: usize) -> Option<Found> {
    let last = patterns.dfa.next_eoi_state(cache, state).ok()?;
    found(patterns, cache, last, at)
}

fn found(patterns: &Patterns, cache: &Cache, state: LazyStateID, at: usize) -> Option<Found> {
    state.is_match().then(|| Found { pattern: patterns.dfa.match_pattern(cache, state, 0).as_usize(), at })
}
