//! How a run ends: the verdict, its exit status, and the place where all threads hand it in.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use carpel_devices::event::{EventSink, GuestEvent};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// An option that looks for lines of the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchOption {
    /// `--until`.
    Until,
    /// `--fail-on`.
    FailOn,
}

impl MatchOption {
    /// The option as it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Until => "--until",
            Self::FailOn => "--fail-on",
        }
    }
}

/// A line of the console that decided the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Whose pattern it matched.
    pub option: MatchOption,
    /// The pattern.
    pub pattern: String,
    /// The port that printed it: `ttyS0`, `ttyAMA0`, `hvc0`, or a further port's name.
    pub port: String,
    /// The line, without what could steer a terminal; of a long one, what is around the match.
    pub line: String,
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The console matched `--until`.
    Until,
    /// The console matched `--fail-on`.
    FailOn(Match),
    /// The guest powered off or reset before the console matched `--until`; how that went.
    UntilMissed(String),
    /// The guest's kernel panicked.
    Panicked,
    /// The guest died, or KVM could not go on with it; the reason, with registers where there are any.
    Died(String),
    /// The guest stopped responding; the reason.
    Unresponsive(String),
    /// `--timeout` ran out.
    TimedOut,
    /// carpel got this signal.
    Signal(u8),
    /// The process that started carpel ended.
    ParentEnded,
    /// The user left by Ctrl-A x.
    Escape,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// The monitor failed; the reason.
    Failed(String),
}

impl Outcome {
    /// The exit status.
    pub const fn status(&self) -> u8 {
        match self {
            Self::PowerOff | Self::Reset | Self::Until => 0,
            Self::Panicked => 120,
            Self::Died(_) => 121,
            Self::Unresponsive(_) => 122,
            Self::FailOn(_) | Self::UntilMissed(_) => 123,
            Self::TimedOut => 124,
            Self::Failed(_) => 125,
            Self::Signal(signal) => 128_u8.wrapping_add(*signal),
            // As if a terminal had gone with it: 128 + SIGHUP.
            Self::ParentEnded => 129,
            // As if by Ctrl-C: 128 + SIGINT.
            Self::Escape => 130,
            // QEMU's isa-debug-exit: (v << 1) | 1, of which a process can return the low 8 bits.
            Self::DebugExit(value) => (*value as u8) << 1 | 1,
        }
    }

    /// One word for reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::Until => "until",
            Self::FailOn(_) => "fail-on",
            Self::UntilMissed(_) => "until-missed",
            Self::Panicked => "panic",
            Self::Died(_) => "died",
            Self::Unresponsive(_) => "unresponsive",
            Self::TimedOut => "timeout",
            Self::Signal(_) => "signal",
            Self::ParentEnded => "parent-ended",
            Self::Escape => "escape",
            Self::DebugExit(_) => "debug-exit",
            Self::Failed(_) => "failed",
        }
    }

    /// What to tell the user, where the status alone says too little.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::PowerOff | Self::Reset | Self::Until | Self::DebugExit(_) => None,
            Self::FailOn(found) => {
                Some(format!("The console matched --fail-on `{}`: {}", one_line(&found.pattern), found.line))
            }
            Self::Panicked => Some("The guest kernel panicked".into()),
            Self::UntilMissed(reason) | Self::Died(reason) | Self::Unresponsive(reason) | Self::Failed(reason) => {
                Some(reason.clone())
            }
            Self::TimedOut => Some("The guest ran longer than --timeout".into()),
            Self::Signal(signal) => Some(format!("Ended by signal {signal}")),
            Self::ParentEnded => Some("The process that started carpel ended (--die-with-parent)".into()),
            Self::Escape => Some("Ended by Ctrl-A x".into()),
        }
    }

    /// Whether a panic explains it: what a kernel does after one, or what is noticed of it.
    const fn follows_panic(&self) -> bool {
        matches!(self, Self::PowerOff | Self::Reset | Self::Died(_) | Self::Unresponsive(_) | Self::TimedOut)
    }

    /// Whether the guest had no part in it: what it printed last is not looked at any more.
    const fn is_from_outside(&self) -> bool {
        matches!(self, Self::Signal(_) | Self::ParentEnded | Self::Escape | Self::Failed(_))
    }
}

/// Where vCPUs, devices, console and timers hand in what ends a run. The first end stands. What the guest printed before it
/// may be judged only afterwards, so the outcome is asked for when all is judged: a match takes precedence over the guest's end,
/// and a panic over what a panic leads to.
#[derive(Debug)]
pub struct Shutdown {
    state: Mutex<State>,
    ended: AtomicBool,
    hurried: AtomicBool,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct State {
    panicked: bool,
    /// A crash kernel takes over: the end of the panic's messages is not the end of the guest.
    crash_kernel: bool,
    found: Option<Match>,
    end: Option<Outcome>,
    /// The guest died of a triple fault.
    triple_fault: bool,
}

/// What the console had shown when the guest had ended, and what of it matters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown<'a> {
    /// What `--until` waited for.
    pub until: Option<&'a str>,
    /// Its last line said that the kernel restarts the machine.
    pub restarting: bool,
    /// It had shown anything at all.
    pub anything: bool,
}

impl Shutdown {
    /// Nothing has ended yet.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let (ended, hurried) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { state: Mutex::default(), ended, hurried, wake })
    }

    /// Ends the run, if nothing has ended it before.
    pub fn end(&self, outcome: Outcome) {
        if outcome.is_from_outside() || outcome == Outcome::TimedOut {
            self.hurried.store(true, Ordering::Release);
        }
        self.end_with(outcome, false);
    }

    /// A vCPU met a triple fault, for this reason: the guest's death, unless its kernel said that it restarts the machine.
    pub fn triple_fault(&self, reason: String) {
        self.end_with(Outcome::Died(reason), true);
    }

    fn end_with(&self, outcome: Outcome, triple_fault: bool) {
        let mut state = self.state();
        if state.end.is_none() {
            state.end = Some(outcome);
            state.triple_fault = triple_fault;
            self.stop();
        }
    }

    /// The console matched, which decides the run unless it is decided or was ended from outside. A match of `--until` ends it; after
    /// one of `--fail-on` it goes on up to [`Self::end_trace`], so that the guest can print the rest.
    pub fn found(&self, found: Match) {
        let mut state = self.state();
        if state.found.is_none() && !state.end.as_ref().is_some_and(Outcome::is_from_outside) {
            if found.option == MatchOption::Until {
                self.stop();
            }
            state.found = Some(found);
        }
    }

    /// What the guest prints after a match of `--fail-on` is complete, or long enough.
    pub fn end_trace(&self) {
        self.stop();
    }

    /// Notes that the guest's kernel panicked. The run goes on, so that it can print the rest.
    pub fn note_panic(&self) {
        self.state().panicked = true;
    }

    /// Whether the kernel panicked and nothing more is to be expected of it than its last words.
    pub fn dying(&self) -> bool {
        let state = self.state();
        state.panicked && !state.crash_kernel
    }

    /// Whether the run has ended. vCPU threads ask before they enter the guest.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether nothing that the guest printed before its end is wanted any more, be it for the verdict or as a failure's trace.
    pub fn is_settled(&self) -> bool {
        let state = self.state();
        match (&state.found, &state.end) {
            (Some(Match { option: MatchOption::Until, .. }), _) | (Some(_), None) => true,
            (_, end) => end.as_ref().is_some_and(Outcome::is_from_outside),
        }
    }

    /// Whether somebody waits for the run's end who is to wait no longer: a signal came, or `--timeout` ran out.
    pub fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Acquire)
    }

    /// The outcome, once the run has ended and the console is judged.
    pub fn outcome(&self, shown: Shown<'_>) -> Option<Outcome> {
        let state = self.state();
        if let Some(found) = state.found.clone().filter(|_| self.ended()) {
            return Some(if found.option == MatchOption::Until { Outcome::Until } else { Outcome::FailOn(found) });
        }
        let end = state.end.clone()?;
        if state.panicked && end.follows_panic() {
            return Some(Outcome::Panicked);
        }
        let end = if state.triple_fault && shown.restarting { Outcome::Reset } else { end };
        Some(match shown.until {
            Some(until) if matches!(end, Outcome::PowerOff | Outcome::Reset) => missed(until, &end, shown.anything),
            _ => end,
        })
    }

    /// The line that decided the run, if one did.
    pub fn matched(&self) -> Option<Match> {
        self.state().found.clone()
    }

    /// Becomes readable when the run ends.
    pub const fn wake(&self) -> &EventFd {
        &self.wake
    }

    fn stop(&self) {
        self.ended.store(true, Ordering::Release);
        // It fails only when its counter is full, and then it is readable already.
        let _ = self.wake.write(1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missed(until: &str, end: &Outcome, printed: bool) -> Outcome {
    let ended = if *end == Outcome::Reset { "reset" } else { "powered off" };
    let silent = match (printed, end) {
        (true, _) => "",
        (false, Outcome::Reset) => "; it printed nothing, as by a kernel that panics before its console is up",
        (false, _) => "; it printed nothing",
    };
    let until = one_line(until);
    Outcome::UntilMissed(format!("The guest {ended} before its console matched --until `{until}`{silent}"))
}

/// A pattern in one line, whatever the user wrote.
fn one_line(pattern: &str) -> String {
    let mut line = String::new();
    for char in pattern.chars() {
        if char.is_control() { line.extend(char.escape_debug()) } else { line.push(char) }
    }
    line
}

impl EventSink for Shutdown {
    fn event(&self, event: GuestEvent) {
        match event {
            GuestEvent::PowerOff => self.end(Outcome::PowerOff),
            GuestEvent::Reset => self.end(Outcome::Reset),
            GuestEvent::Panicked => self.end(Outcome::Panicked),
            GuestEvent::CrashLoaded => {
                self.note_panic();
                self.state().crash_kernel = true;
            }
            GuestEvent::DebugExit(value) => self.end(Outcome::DebugExit(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(shown: Shown<'_>, notes: impl FnOnce(&Shutdown)) -> Outcome {
        let shutdown = Shutdown::new().unwrap();
        notes(&shutdown);
        assert!(shutdown.ended());
        assert!(shutdown.wake().read().unwrap() > 0);
        shutdown.outcome(shown).unwrap()
    }

    fn outcome(notes: impl FnOnce(&Shutdown)) -> Outcome {
        ended(Shown::default(), notes)
    }

    fn line(option: MatchOption) -> Match {
        Match { option, pattern: "x+".into(), port: "hvc0".into(), line: "xx".into() }
    }

    #[test]
    fn the_first_end_stands() {
        let first = |shutdown: &Shutdown| {
            shutdown.end(Outcome::DebugExit(1));
            shutdown.end(Outcome::Reset);
            shutdown.event(GuestEvent::Panicked);
            shutdown.end(Outcome::Signal(15));
        };
        assert_eq!(outcome(first), Outcome::DebugExit(1));
    }

    #[test]
    fn what_the_guest_printed_before_its_end_decides() {
        let until = Shown { until: Some("x+"), anything: true, restarting: false };
        for end in [Outcome::PowerOff, Outcome::Reset, Outcome::Panicked, Outcome::TimedOut, Outcome::Died("x".into())]
        {
            let judged = |option| {
                ended(until, |shutdown| {
                    shutdown.end(end.clone());
                    assert!(!shutdown.is_settled());
                    shutdown.found(line(option));
                    assert_eq!(shutdown.is_settled(), option == MatchOption::Until);
                })
            };
            assert_eq!(judged(MatchOption::Until), Outcome::Until);
            assert_eq!(judged(MatchOption::FailOn), Outcome::FailOn(line(MatchOption::FailOn)));
        }
        for end in [Outcome::Signal(15), Outcome::Escape, Outcome::Failed("x".into())] {
            let judged = ended(until, |shutdown| {
                shutdown.end(end.clone());
                assert!(shutdown.is_settled() && shutdown.is_hurried());
                shutdown.found(line(MatchOption::Until));
            });
            assert_eq!(judged, end);
        }
    }

    #[test]
    fn nothing_after_a_match_changes_the_verdict() {
        for end in [Outcome::PowerOff, Outcome::Panicked, Outcome::TimedOut, Outcome::Signal(15), Outcome::Escape] {
            let judged = outcome(|shutdown| {
                shutdown.found(line(MatchOption::FailOn));
                assert!(!shutdown.ended());
                shutdown.found(line(MatchOption::Until));
                shutdown.note_panic();
                shutdown.end(end);
            });
            assert_eq!(judged, Outcome::FailOn(line(MatchOption::FailOn)));
        }
    }

    #[test]
    fn an_end_before_the_awaited_line_is_a_failure_that_says_how() {
        let until = |anything| Shown { until: Some("login:"), anything, restarting: false };
        let missed = ended(until(true), |shutdown| shutdown.end(Outcome::PowerOff));
        let says = "The guest powered off before its console matched --until `login:`";
        assert_eq!((missed.status(), missed.name(), missed.message()), (123, "until-missed", Some(says.into())));
        let silent = ended(until(false), |shutdown| shutdown.end(Outcome::Reset)).message().unwrap();
        assert!(silent.starts_with("The guest reset before") && silent.contains("printed nothing"), "{silent}");
        let lines = Shown { until: Some("a\nb"), ..until(true) };
        assert!(ended(lines, |shutdown| shutdown.end(Outcome::PowerOff)).message().unwrap().ends_with("`a\\nb`"));
        for own in [Outcome::Panicked, Outcome::DebugExit(0), Outcome::TimedOut, Outcome::Unresponsive("x".into())] {
            assert_eq!(ended(until(true), |shutdown| shutdown.end(own.clone())), own);
        }
    }

    #[test]
    fn a_triple_fault_is_a_reset_where_the_kernel_said_so() {
        let fault = |shown| ended(shown, |shutdown| shutdown.triple_fault("x".into()));
        let restarting = Shown { restarting: true, anything: true, until: None };
        assert_eq!(fault(Shown::default()), Outcome::Died("x".into()));
        assert_eq!(fault(restarting), Outcome::Reset);
        assert_eq!(fault(Shown { until: Some("x"), ..restarting }).name(), "until-missed");
        assert_eq!(ended(restarting, |shutdown| shutdown.end(Outcome::Died("x".into()))), Outcome::Died("x".into()));
    }

    #[test]
    fn a_panic_wins_over_what_follows_from_it() {
        let ended_by = |later: Outcome| {
            let noted_before = outcome(|shutdown| {
                shutdown.note_panic();
                shutdown.end(later.clone());
            });
            // Where the console's last words are read after the guest's end.
            let noted_after = outcome(|shutdown| {
                shutdown.end(later);
                shutdown.note_panic();
            });
            assert_eq!(noted_before, noted_after);
            noted_before
        };
        assert_eq!(ended_by(Outcome::Reset), Outcome::Panicked);
        assert_eq!(ended_by(Outcome::PowerOff), Outcome::Panicked);
        assert_eq!(ended_by(Outcome::TimedOut), Outcome::Panicked);
        assert_eq!(ended_by(Outcome::Signal(15)), Outcome::Signal(15));
        assert_eq!(ended_by(Outcome::DebugExit(1)), Outcome::DebugExit(1));
    }

    #[test]
    fn a_crash_kernel_runs_on_after_the_panic() {
        let crash = |shutdown: &Shutdown| {
            shutdown.event(GuestEvent::CrashLoaded);
            assert!(!shutdown.ended() && !shutdown.dying());
            shutdown.event(GuestEvent::PowerOff);
        };
        assert_eq!(outcome(crash), Outcome::Panicked);
    }

    #[test]
    fn statuses_are_those_of_the_contract() {
        let statuses = [
            (Outcome::PowerOff, 0),
            (Outcome::Reset, 0),
            (Outcome::Until, 0),
            (Outcome::Panicked, 120),
            (Outcome::Died(String::new()), 121),
            (Outcome::Unresponsive(String::new()), 122),
            (Outcome::FailOn(line(MatchOption::FailOn)), 123),
            (Outcome::UntilMissed(String::new()), 123),
            (Outcome::TimedOut, 124),
            (Outcome::Failed(String::new()), 125),
            (Outcome::Escape, 130),
            (Outcome::Signal(15), 143),
            (Outcome::ParentEnded, 129),
            (Outcome::DebugExit(0), 1),
            (Outcome::DebugExit(3), 7),
            (Outcome::DebugExit(0xFF), 0xFF),
        ];
        for (outcome, status) in statuses {
            assert_eq!(outcome.status(), status, "{outcome:?}");
        }
    }
}
