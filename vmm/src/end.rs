//! How long an end may take: what waits for the host must not hold it up.
//!
//! The main thread waits for I/O in flight no longer than [`IN_FLIGHT`], then leaves it behind. Where the main thread itself waits for the
//! host, as it does while it writes to a file whose server is gone, the [`Guard`] ends the process in its place.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use carpel_devices::{leftover, thread};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::SignalFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::config::Limits;
use crate::outcome::{Outcome, Shown, Shutdown};
use crate::threads::share_one_heap;
use crate::{signals, terminal};

/// An end waits for I/O in flight so long: a disk that is merely slow answers, and nobody who waits for the end gives up.
pub const IN_FLIGHT: Duration = Duration::from_secs(2);
/// For all else of an end: reports are written, sockets removed.
const REST: Duration = Duration::from_secs(1);
/// The main thread takes note of a signal or of the time at once, unless it waits for the host.
const NOTICE: Duration = Duration::from_secs(1);
/// How often to look whether what is due has been seen to.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// As long as this may a message take, where the place it goes to may be what everybody waits for.
const MESSAGE: Duration = Duration::from_millis(200);

/// Whether some thread is telling why the process ends at once.
static TELLING: AtomicBool = AtomicBool::new(false);
/// Called by a thread before it tells why the process ends at once. Only the first one returns: the others wait for its end, or end the
/// process with this status if that does not come.
pub fn tell_alone(status: u8) {
    if TELLING.swap(true, Ordering::AcqRel) {
        sleep(MESSAGE);
        leave(status);
    }
}

/// Ends the process at once, whatever its threads do. Nothing is dropped; the terminal is put back, and files that must not stay go.
pub fn leave(status: u8) -> ! {
    leftover::remove_all();
    terminal::restore();
    // SAFETY: the call ends the process; it takes no lock and runs no code of ours.
    unsafe { libc::_exit(status.into()) }
}

/// Watches that the end comes, in a thread that waits for nothing else.
pub struct Guard {
    state: Mutex<State>,
    /// Signalled when the state has changed.
    news: EventFd,
    shutdown: Arc<Shutdown>,
    /// What `--until` waits for.
    until: Option<String>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// When `--timeout` runs out, if it was not noticed before.
    time_out: Option<Instant>,
    /// When the main thread began to end, if it did.
    ending: Option<Instant>,
    /// The exit status, once the user is told of the end.
    told: Option<u8>,
}

impl Guard {
    /// Starts the thread, which ends with the process. The timeout begins now, and again at [`Self::run_begins`].
    pub fn start(shutdown: Arc<Shutdown>, limits: &Limits) -> io::Result<Arc<Self>> {
        share_one_heap();
        let state = Mutex::new(State { time_out: due(limits.timeout), ..State::default() });
        let news = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let guard = Arc::new(Self { state, news, shutdown, until: limits.until.clone() });
        let signals = signals::ends()?;
        let shared = Arc::clone(&guard);
        drop(thread::spawn("guard".into(), move || shared.watch(&signals))?);
        Ok(guard)
    }

    /// The timeout begins.
    pub fn run_begins(&self, timeout: Option<Duration>) {
        self.change(|state| state.time_out = due(timeout));
    }

    /// The main thread has begun to end: from now on that takes a bounded time.
    pub fn end_begins(&self) {
        self.change(|state| state.ending = Some(Instant::now()));
    }

    /// The main thread is busy, and waits for nothing but the processor. [`Self::end_begins`] follows.
    pub fn end_pauses(&self) {
        self.change(|state| (state.ending, state.time_out) = (None, None));
    }

    /// The user is being told of the end, and this will be the exit status.
    pub fn end_is_told(&self, status: u8) {
        self.change(|state| state.told = Some(status));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        let _ = self.news.write(1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, signals: &SignalFd) {
        // They are for the main thread, and a signal that would end the process still does in its thread.
        let _ = SigSet::all().thread_block();
        // Since when the main thread should have noticed something.
        let mut due_since = None;
        loop {
            let State { time_out, ending, .. } = *self.state();
            let now = Instant::now();
            if ending.is_some_and(|begun| now >= begun + IN_FLIGHT + REST) {
                self.leave();
            }
            let late = due_since.is_some_and(|since| now >= since + NOTICE);
            if late && ending.is_none() {
                self.end_unnoticed(signals);
            }
            let timed_out = time_out.is_some_and(|time| now >= time);
            let wait = match (due_since, ending, time_out) {
                (None, None, None) => None,
                (None, None, Some(time)) if !timed_out => Some(time - now),
                _ => Some(LOOK_INTERVAL),
            };
            let noticeable = self.wait(signals, wait);
            due_since = (noticeable || timed_out).then(|| due_since.unwrap_or_else(Instant::now));
        }
    }

    /// Waits for something that concerns the end; returns whether there is something for the main thread to notice.
    fn wait(&self, signals: &SignalFd, time: Option<Duration>) -> bool {
        // SAFETY: the eventfds are this guard's and the shutdown's, which it keeps.
        let borrow = |eventfd: &EventFd| unsafe { BorrowedFd::borrow_raw(eventfd.as_raw_fd()) };
        let sources = [signals.as_fd(), borrow(self.shutdown.wake()), borrow(&self.news)];
        let mut polled = sources.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let time = time.map_or(PollTimeout::NONE, |time| {
            // Rounded up, so that the time has come when the wait is over.
            PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let _ = poll(&mut polled, time);
        let _ = self.news.read();
        polled[..2].iter().any(|polled| polled.any() == Some(true))
    }

    /// The main thread has not noticed what is due: from now on the end is this thread's.
    fn end_unnoticed(&self, signals: &SignalFd) {
        match signals.read_signal() {
            Ok(Some(signal)) => self.shutdown.end(Outcome::Signal(signal.ssi_signo as u8)),
            _ => self.shutdown.end(Outcome::TimedOut),
        }
        self.change(|state| {
            // The time that it had to notice counts.
            let begun = Instant::now().checked_sub(NOTICE).unwrap_or_else(Instant::now);
            state.ending.get_or_insert(begun);
        });
    }

    /// Tells how it ended, if nobody has, and ends the process.
    fn leave(&self) -> ! {
        // What the console showed last may be where the main thread is held up: a doubt counts against the guest.
        let shown = Shown { until: self.until.as_deref(), ..Shown::default() };
        let outcome = self.shutdown.outcome(shown).unwrap_or(Outcome::TimedOut);
        let told = self.state().told;
        if told.is_none() {
            let why = outcome.message().unwrap_or_else(|| "The guest has ended".into());
            let line = format!("carpel: {why}; what waits for the host is left behind\n");
            let (tell, told) = sync_channel(1);
            // In a thread of its own, for this may be the file that everybody waits for.
            let message = thread::spawn("message".into(), move || {
                let _ = io::stderr().write_all(line.as_bytes());
                let _ = tell.send(());
            });
            if message.is_ok() {
                let _ = told.recv_timeout(MESSAGE);
            }
        }
        leave(told.unwrap_or_else(|| outcome.status()))
    }
}

/// When the main thread's own timer has fired for certain.
fn due(timeout: Option<Duration>) -> Option<Instant> {
    Instant::now().checked_add(timeout?)
}
