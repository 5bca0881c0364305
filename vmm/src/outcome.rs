//! How a run ends: the verdict, its exit status, and the place where all threads hand it in.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use carpel_devices::event::{EventSink, GuestEvent};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// What a pattern matched on a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The option that gave the pattern.
    pub option: MatchOption,
    /// The pattern.
    pub pattern: String,
    /// The console's port.
    pub port: String,
    /// The line.
    pub line: String,
}

/// An option that takes a pattern.
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

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The console matched `--until`.
    Until,
    /// The console matched `--fail-on`; the matching line.
    FailOn(String),
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
            Self::FailOn(_) => 123,
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
            Self::FailOn(line) => Some(format!("The console matched --fail-on: {line}")),
            Self::Panicked => Some("The guest kernel panicked".into()),
            Self::Died(reason) | Self::Unresponsive(reason) | Self::Failed(reason) => Some(reason.clone()),
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
}

/// Where vCPUs, devices, console and timers hand in an outcome. The first one stands, except that a panic seen before
/// it takes precedence over what a panic leads to.
#[derive(Debug)]
pub struct Shutdown {
    state: Mutex<State>,
    ended: AtomicBool,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct State {
    panicked: bool,
    /// A crash kernel takes over: the end of the panic's messages is not the end of the guest.
    crash_kernel: bool,
    outcome: Option<Outcome>,
}

impl Shutdown {
    /// Nothing has ended yet.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self { state: Mutex::default(), ended: AtomicBool::new(false), wake })
    }

    /// Ends the run, if nothing has ended it before.
    pub fn end(&self, outcome: Outcome) {
        let mut state = self.state();
        if state.outcome.is_none() {
            let panicked = state.panicked && outcome.follows_panic();
            state.outcome = Some(if panicked { Outcome::Panicked } else { outcome });
            self.ended.store(true, Ordering::Release);
            self.notify();
        }
    }

    /// Notes that the guest's kernel panicked. The run goes on, so that it can print the rest.
    pub fn note_panic(&self) {
        let mut state = self.state();
        if !state.panicked {
            state.panicked = true;
            self.notify();
        }
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

    /// The outcome, once the run has ended.
    pub fn outcome(&self) -> Option<Outcome> {
        self.state().outcome.clone()
    }

    /// Becomes readable when a panic is noted and when the run ends.
    pub const fn wake(&self) -> &EventFd {
        &self.wake
    }

    fn notify(&self) {
        // The counter cannot overflow: there are at most two notifications.
        let _ = self.wake.write(1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    fn outcome(notes: impl FnOnce(&Shutdown)) -> Outcome {
        let shutdown = Shutdown::new().unwrap();
        notes(&shutdown);
        assert!(shutdown.ended());
        assert!(shutdown.wake().read().unwrap() > 0);
        shutdown.outcome().unwrap()
    }

    #[test]
    fn the_first_outcome_stands() {
        let first = |shutdown: &Shutdown| {
            shutdown.end(Outcome::Until);
            shutdown.end(Outcome::Reset);
            shutdown.event(GuestEvent::Panicked);
        };
        assert_eq!(outcome(first), Outcome::Until);
    }

    #[test]
    fn a_panic_wins_over_what_follows_from_it() {
        let ended_by = |later: Outcome| {
            outcome(|shutdown| {
                shutdown.note_panic();
                shutdown.end(later);
            })
        };
        assert_eq!(ended_by(Outcome::Reset), Outcome::Panicked);
        assert_eq!(ended_by(Outcome::PowerOff), Outcome::Panicked);
        assert_eq!(ended_by(Outcome::TimedOut), Outcome::Panicked);
        assert_eq!(ended_by(Outcome::Signal(15)), Outcome::Signal(15));
        assert_eq!(ended_by(Outcome::Until), Outcome::Until);
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
            (Outcome::FailOn(String::new()), 123),
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
