//! Reading the guest's console for a verdict: patterns of the user, and a kernel's last words.
//!
//! Each port has its own lines. A line ends by `\n`, `\r\n` or a lone `\r`, and is judged when it is complete, in the thread that
//! prints it and before the guest goes on: so verdicts stand in the order in which the guest caused them. A lone `\r` is known for
//! one by the byte behind it. An unfinished line is judged when its port has been silent for a while, and at the guest's end.

mod escape;
mod pattern;
mod port;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use vmm_sys_util::timerfd::TimerFd;

use crate::config::Limits;
use crate::outcome::{Match, MatchOption, Outcome, Shutdown};
pub use pattern::PatternError;
use pattern::{Found, Patterns};
use port::{Event, Port, Wanted};

/// An unfinished line is judged after so long without output on its port: a prompt that waits.
const SILENCE: Duration = Duration::from_millis(500);
/// A timer that comes so much too late tells that the monitor was stopped, and the guest with it: its silence begins anew.
const STOPPED: Duration = Duration::from_millis(250);
/// How the guest may go on after a match of `--fail-on`: until it is silent for so long, ...
const TRACE_SILENCE: Duration = Duration::from_secs(1);
/// ... for so long at most, ...
const TRACE_TIME: Duration = Duration::from_secs(5);
/// ... and with so many bytes at most.
const TRACE_MAX: usize = 256 << 10;
/// So many bytes of what the guest printed last are kept for reports.
const TAIL_MAX: usize = 64 << 10;

/// Why a console cannot be watched.
#[derive(Debug, Error)]
pub enum JudgeError {
    /// A pattern is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The host gives no timer.
    #[error("Cannot create a timer")]
    Timer(#[from] io::Error),
}

/// Judges all ports of a guest's console.
pub struct Judge {
    shutdown: Arc<Shutdown>,
    wanted: Wanted,
    printed: AtomicU64,
    /// How many ports offered more than was taken.
    behind: AtomicUsize,
    /// Nothing is printed any more: what the guest printed is only judged.
    output_given_up: AtomicBool,
    state: Mutex<State>,
}

struct State {
    ports: Vec<Port>,
    /// The port that printed last.
    latest: usize,
    tail: VecDeque<u8>,
    /// There is a verdict: no more is looked for.
    decided: bool,
    trace: Option<Trace>,
    /// None if nothing is looked for.
    timer: Option<TimerFd>,
    /// When the timer fires, if it does.
    alarm: Option<Instant>,
}

/// What the guest prints after a match of `--fail-on`.
struct Trace {
    begun: Instant,
    printed_at: Instant,
    bytes: usize,
}

impl Judge {
    /// Compiles the patterns.
    pub fn new(limits: &Limits, shutdown: Arc<Shutdown>) -> Result<Self, JudgeError> {
        let until: Vec<_> = limits.until.iter().cloned().collect();
        let wanted = Wanted { fail_on: Patterns::new(&limits.fail_on)?, until: Patterns::new(&until)? };
        let timer = (!wanted.is_nothing()).then(TimerFd::new).transpose().map_err(io::Error::from)?;
        let state = State {
            ports: Vec::new(),
            latest: 0,
            tail: VecDeque::new(),
            decided: false,
            trace: None,
            timer,
            alarm: None,
        };
        Ok(Self {
            shutdown,
            wanted,
            printed: AtomicU64::new(0),
            behind: AtomicUsize::new(0),
            output_given_up: AtomicBool::new(false),
            state: Mutex::new(state),
        })
    }

    /// Adds a port; returns its number.
    pub fn add(&self, name: &str) -> usize {
        let mut state = self.state();
        state.ports.push(Port::new(name, &self.wanted));
        state.ports.len() - 1
    }

    /// How many bytes the guest has printed.
    pub fn printed(&self) -> u64 {
        self.printed.load(Ordering::Relaxed)
    }

    /// The last 64 KiB of what it printed, on whichever port.
    pub fn take_tail(&self) -> Vec<u8> {
        std::mem::take(&mut self.state().tail).into()
    }

    /// Whether the last line on the console says that the kernel restarts the machine.
    pub fn is_restarting(&self) -> bool {
        let state = self.state();
        state.ports.get(state.latest).is_some_and(Port::is_restarting)
    }

    /// Notes that a port offers more than was taken, or no longer does.
    pub fn note_behind(&self, before: bool, now: bool) {
        match (before, now) {
            (false, true) => drop(self.behind.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.behind.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// Whether there is a port that offers more than was taken.
    pub fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Relaxed) > 0
    }

    /// From now on, what the guest printed is judged without being printed: nobody reads it.
    pub fn give_up_output(&self) {
        self.output_given_up.store(true, Ordering::Relaxed);
    }

    /// Whether nothing is printed any more.
    pub fn is_output_given_up(&self) -> bool {
        self.output_given_up.load(Ordering::Relaxed)
    }

    /// Takes what the guest printed on a port.
    pub fn feed(&self, port: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.printed.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let state = &mut *self.state();
        state.keep(bytes);
        state.latest = port;
        for &byte in bytes {
            self.take(state, port, byte);
        }
        if state.timer.is_none() {
            return;
        }
        let now = Instant::now();
        state.ports[port].waiting_since = (!state.decided && state.ports[port].is_unfinished()).then_some(now);
        if let Some(trace) = &mut state.trace {
            trace.printed_at = now;
            trace.bytes += bytes.len();
            if trace.bytes >= TRACE_MAX {
                self.shutdown.end_trace();
            }
        }
        state.set_alarm(now);
    }

    fn take(&self, state: &mut State, port: usize, byte: u8) {
        loop {
            match state.ports[port].take(byte, &self.wanted) {
                Event::None => return,
                Event::Panic => return self.shutdown.note_panic(),
                Event::Piece => {
                    self.judge_all(state, &[port], |port, _, fail| port.judge_piece(fail));
                    return state.ports[port].next_piece();
                }
                Event::Line => {
                    self.end_line(state, port);
                    if byte == b'\n' {
                        return;
                    }
                    // It was a lone carriage return, and the byte belongs to the next line.
                }
            }
        }
    }

    fn end_line(&self, state: &mut State, port: usize) {
        self.judge_all(state, &[port], |port, wanted, fail| port.judge(fail, wanted));
        if state.trace.is_some() && state.ports[port].ends_trace() {
            self.shutdown.end_trace();
        }
        if state.ports[port].next_line(&self.wanted) {
            self.shutdown.end(Outcome::Panicked);
        }
    }

    /// Judges lines of these ports, in the way that is given. A failure counts before a success: a verdict errs on the side of
    /// caution.
    fn judge_all(&self, state: &mut State, ports: &[usize], judge: impl Fn(&mut Port, &Wanted, bool) -> Option<Found>) {
        for option in [MatchOption::FailOn, MatchOption::Until] {
            for &number in ports {
                let port = &mut state.ports[number];
                if state.decided {
                    return;
                }
                if let Some(found) = judge(port, &self.wanted, option == MatchOption::FailOn) {
                    self.decide(state, number, option, found);
                }
            }
        }
    }

    fn decide(&self, state: &mut State, port: usize, option: MatchOption, found: Found) {
        let patterns = if option == MatchOption::FailOn { &self.wanted.fail_on } else { &self.wanted.until };
        let pattern = patterns.as_ref().map_or("", |patterns| patterns.text(found.pattern)).to_owned();
        let (name, line) = (state.ports[port].name.clone(), state.ports[port].shown(found.at));
        state.decided = true;
        for port in &mut state.ports {
            port.waiting_since = None;
        }
        if option == MatchOption::FailOn {
            let now = Instant::now();
            state.trace = Some(Trace { begun: now, printed_at: now, bytes: 0 });
            state.set_alarm(now);
        }
        self.shutdown.found(Match { option, pattern, port: name, line });
    }

    /// The timer fired: judges the lines that have waited long enough.
    pub fn tick(&self) {
        let state = &mut *self.state();
        if let Some(timer) = &mut state.timer {
            // To read it would wait where it was set anew in the meantime.
            let _ = timer.clear();
        }
        let now = Instant::now();
        let late = state.alarm.take().is_some_and(|alarm| now.saturating_duration_since(alarm) > STOPPED);
        let is_due = |since: Instant| now.saturating_duration_since(since) >= SILENCE;
        let mut due = Vec::new();
        for (number, port) in state.ports.iter_mut().enumerate() {
            if port.waiting_since.is_some_and(is_due) {
                port.waiting_since = late.then_some(now);
                due.extend((!late).then_some(number));
            }
        }
        self.judge_unfinished(state, &due);
        let over = |trace: &Trace| now >= trace.printed_at + TRACE_SILENCE || now >= trace.begun + TRACE_TIME;
        if state.trace.as_ref().is_some_and(over) {
            self.shutdown.end_trace();
        } else {
            state.set_alarm(now);
        }
    }

    fn judge_unfinished(&self, state: &mut State, ports: &[usize]) {
        self.judge_all(state, ports, |port, wanted, fail| port.judge_unfinished(fail, wanted));
        for &port in ports {
            if state.ports[port].note_judged_return() && state.ports[port].next_line(&self.wanted) {
                self.shutdown.end(Outcome::Panicked);
            }
        }
    }

    /// The guest has ended: nothing more comes, so that what it printed last is complete.
    pub fn finish(&self) {
        let state = &mut *self.state();
        let unfinished: Vec<_> = (0..state.ports.len()).filter(|&port| state.ports[port].is_unfinished()).collect();
        self.judge_unfinished(state, &unfinished);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The timer for [`Self::tick`], if anything is looked for. It is there as long as this is.
    pub fn timer(&self) -> Option<RawFd> {
        self.state().timer.as_ref().map(AsRawFd::as_raw_fd)
    }
}

impl State {
    fn keep(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_MAX)..];
        let superfluous = (self.tail.len() + bytes.len()).saturating_sub(TAIL_MAX);
        self.tail.drain(..superfluous);
        self.tail.extend(bytes);
    }

    /// Sets the timer, unless it fires early enough: a byte costs no system call.
    fn set_alarm(&mut self, now: Instant) {
        let lines = self.ports.iter().filter_map(|port| Some(port.waiting_since? + SILENCE));
        let trace = self.trace.as_ref().map(|trace| (trace.printed_at + TRACE_SILENCE).min(trace.begun + TRACE_TIME));
        let (Some(next), Some(timer)) = (lines.chain(trace).min(), &mut self.timer) else { return };
        if self.alarm.is_none_or(|alarm| next < alarm) {
            // No time at all would turn it off.
            let after = next.saturating_duration_since(now).max(Duration::from_millis(1));
            match timer.reset(after, None) {
                Ok(()) => self.alarm = Some(now + after),
                Err(error) => log::warn!("Unfinished lines are not judged: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
