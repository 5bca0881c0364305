//! Signals: those that carpel lives by, and what each does.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::events::{periodic, watch_readable};
use crate::outcome::{Outcome, Shutdown};
use crate::terminal::{self, Terminal};

/// Signals that would end the process and may come at any time: they end the run in order. So do the real-time signals
/// but the first, which is the vCPU threads' own (see `threads`).
const ENDS: [Signal; 12] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGSTKFLT,
    Signal::SIGXCPU,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGPWR,
];
/// Signals of job control that stop the process.
const STOPS: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];
/// Signals of a thread's own faults, which cannot wait for the event loop.
const FAULTS: [Signal; 7] =
    [Signal::SIGILL, Signal::SIGTRAP, Signal::SIGABRT, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGSEGV, Signal::SIGSYS];
/// The signal that prints the guest's maps.
const DUMP: Signal = Signal::SIGUSR1;
/// The signal that a file may not be longer: this is an error of the write.
const FILE_SIZE: Signal = Signal::SIGXFSZ;

/// How often to look whether carpel came to the terminal's foreground: as often as a user would not notice.
const FOREGROUND_TICK: Duration = Duration::from_millis(250);

/// Event data of [`Signals`]: a signal came.
const SIGNAL: u32 = 0;
/// Event data of [`Signals`]: it is time to look at the terminal.
const TICK: u32 = 1;

/// What each fault did before the terminal was to be restored; set before the handlers are.
static FAULT_ACTIONS: OnceLock<[libc::sigaction; FAULTS.len()]> = OnceLock::new();

/// To be called before anything that may wait, by the process' first thread. Undoes a signal mask that was inherited: a
/// signal that carpel lives by and that the parent had blocked would never come. What was ignored stays ignored.
pub fn prepare() -> io::Result<()> {
    // A dump waits for the guest, and a terminal that stops background jobs for their output (`stty tostop`) gets it.
    Ok(signal_set(numbers(&[DUMP, FILE_SIZE]).chain(heeded(&[Signal::SIGTTOU]))).thread_set_mask()?)
}

/// Keeps signals from the calling thread and those that it starts: those that the event loop reads wait for it.
pub(crate) fn reserve() -> io::Result<()> {
    let real_time = (libc::SIGRTMIN() + 1..=libc::SIGRTMAX()).filter(|&number| !is_ignored(number));
    let heeded = heeded(&ENDS).chain(real_time).chain(heeded(&STOPS));
    let others = numbers(&[Signal::SIGCONT, Signal::SIGWINCH, DUMP, FILE_SIZE]);
    Ok(signal_set(heeded.chain(others)).thread_block()?)
}

/// The signals that end the run, for another thread to see that they came.
pub(crate) fn ends() -> io::Result<SignalFd> {
    readable(&signal_set(heeded(&ENDS)))
}

fn numbers(signals: &[Signal]) -> impl Iterator<Item = c_int> {
    signals.iter().map(|&signal| signal as c_int)
}

/// Those of the signals that were not ignored at the start. One that is blocked waits, and is read, even if it is
/// ignored.
fn heeded(signals: &[Signal]) -> impl Iterator<Item = c_int> {
    numbers(signals).filter(|&number| !is_ignored(number))
}

fn is_ignored(number: c_int) -> bool {
    action(number).sa_sigaction == libc::SIG_IGN
}

/// What a signal does.
fn action(number: c_int) -> libc::sigaction {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the call changes nothing; it writes one action to where there is room for it.
    unsafe { libc::sigaction(number, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all fields are numbers and optional pointers, for which zeros are valid should the call have failed.
    unsafe { action.assume_init() }
}

/// A set of signals by number: nix knows no real-time signals.
fn signal_set(signals: impl Iterator<Item = c_int>) -> SigSet {
    let mut set = *SigSet::empty().as_ref();
    for number in signals {
        // SAFETY: the set is initialized; the call fails for a number that is no signal's.
        unsafe { libc::sigaddset(&raw mut set, number) };
    }
    // SAFETY: the set is initialized.
    unsafe { SigSet::from_sigset_t_unchecked(set) }
}

/// Reads signals, which are reserved.
fn readable(signals: &SigSet) -> io::Result<SignalFd> {
    Ok(SignalFd::with_flags(signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Restores the terminal before a fault ends the process.
pub(crate) fn restore_terminal_on_faults() -> io::Result<()> {
    FAULT_ACTIONS.get_or_init(|| FAULTS.map(|signal| action(signal as c_int)));
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
    let restore = SigAction::new(SigHandler::SigAction(restore_and_end), flags, SigSet::all());
    for signal in FAULTS.into_iter().filter(|&signal| !is_ignored(signal as c_int)) {
        // SAFETY: the handler calls only what a handler may call.
        unsafe { sigaction(signal, &restore) }?;
    }
    Ok(())
}

extern "C" fn restore_and_end(number: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    terminal::restore();
    // SAFETY: the kernel hands over a signal's information.
    let was_sent = unsafe { (*info).si_code } <= 0;
    let is_access = [libc::SIGSEGV, libc::SIGBUS].contains(&number);
    let before = || {
        let index = FAULTS.iter().position(|&signal| signal as c_int == number)?;
        FAULT_ACTIONS.get()?.get(index)
    };
    if let Some(before) = before().filter(|_| is_access && !was_sent) {
        // The access happens again then, and the standard library's handler says if it was the stack's overflow.
        // SAFETY: the action was this signal's, and the call is one that a handler may make.
        unsafe { libc::sigaction(number, before, ptr::null_mut()) };
        return;
    }
    // SAFETY: both calls are such that a handler may make them. The signal waits until this one returns.
    unsafe {
        libc::signal(number, libc::SIG_DFL);
        libc::raise(number);
    }
}

/// Serves the signals that end, stop and continue carpel, and those of the terminal.
pub(crate) struct Signals {
    fd: SignalFd,
    stops: SigSet,
    /// Tells of stops, and is never read: what is read can be undone by SIGCONT no more.
    stop_fd: SignalFd,
    /// When to look whether the terminal's foreground has come or gone.
    tick: Option<TimerFd>,
    terminal: Option<Rc<Terminal>>,
    shutdown: Arc<Shutdown>,
}

impl Signals {
    /// Serves the signals that are reserved, with the user's terminal if there is one.
    pub(crate) fn new(terminal: Option<Rc<Terminal>>, shutdown: Arc<Shutdown>) -> io::Result<Self> {
        let reserved = SigSet::thread_get_mask()?;
        let stops: SigSet = STOPS.into_iter().filter(|&signal| reserved.contains(signal)).collect();
        let mut served = reserved;
        STOPS.into_iter().chain([DUMP, FILE_SIZE]).for_each(|signal| served.remove(signal));
        let tick = terminal.is_some().then(|| periodic(FOREGROUND_TICK)).transpose()?;
        Ok(Self { fd: readable(&served)?, stop_fd: readable(&stops)?, stops, tick, terminal, shutdown })
    }

    fn serve(&self, number: u32) {
        match Signal::try_from(number.cast_signed()) {
            Ok(Signal::SIGCONT) => self.terminal.iter().for_each(|terminal| terminal.take()),
            Ok(Signal::SIGWINCH) => self.terminal.iter().for_each(|terminal| terminal.tell_size()),
            _ => self.shutdown.end(Outcome::Signal(number as u8)),
        }
    }

    /// Lets stops that are pending do what they do by default, without the terminal.
    fn stop(&self) {
        let pending = pending();
        if !self.stops.iter().any(|signal| pending.contains(signal)) {
            return;
        }
        terminal::restore();
        // All threads stop here, until SIGCONT; in an orphaned process group, which nobody would continue, none does.
        if let Err(error) = self.stops.thread_unblock().and_then(|()| self.stops.thread_block()) {
            log::warn!("Cannot stop: {error}");
        }
        self.terminal.iter().for_each(|terminal| terminal.take());
    }
}

/// The signals that are blocked and have come.
fn pending() -> SigSet {
    let mut pending = *SigSet::empty().as_ref();
    // SAFETY: the call writes one set, to where there is one.
    unsafe { libc::sigpending(&raw mut pending) };
    // SAFETY: the set is initialized.
    unsafe { SigSet::from_sigset_t_unchecked(pending) }
}

impl MutEventSubscriber for Signals {
    fn init(&mut self, ops: &mut EventOps) {
        for fd in [&self.fd, &self.stop_fd] {
            watch_readable(ops, Events::with_data(fd, SIGNAL, EventSet::IN), &self.shutdown);
        }
        if let Some(tick) = &self.tick {
            watch_readable(ops, Events::with_data(tick, TICK, EventSet::IN), &self.shutdown);
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.data() == TICK {
            let _ = self.tick.as_mut().map(TimerFd::wait);
            self.terminal.iter().for_each(|terminal| terminal.look());
            return;
        }
        while let (false, Ok(Some(signal))) = (self.shutdown.ended(), self.fd.read_signal()) {
            self.serve(signal.ssi_signo);
        }
        if !self.shutdown.ended() {
            self.stop();
        }
    }
}

/// Reads the signal that asks for the guest's maps.
pub(crate) fn dump_signal() -> io::Result<SignalFd> {
    readable(&SigSet::from(DUMP))
}
