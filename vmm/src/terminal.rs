//! The user's terminal: raw while carpel is in its foreground, and as it was found at any other time.

use std::cell::Cell;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;

use carpel_devices::diagnostics;
use carpel_devices::endpoint::in_foreground;
use carpel_devices::virtio::console::{ConsoleHandle, Size};
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::signals;

/// What Ctrl-A h prints.
pub(crate) const HELP: &str = "carpel: Ctrl-A x ends the guest, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this\n";
/// What is said once, when the terminal becomes raw for the first time.
const HINT: &str = "carpel: Ctrl-A x ends the guest, Ctrl-A h helps\n";
/// How often to try for what another thread has: it has it for the time of a system call. A fault may find it with its
/// own thread, and must not wait for ever.
const TRIES: u32 = 1000;

/// What the terminal was, while it is raw. It belongs to the process, as the terminal does: a signal's handler and the
/// panic hook restore it.
static RAW: Mutex<Option<Raw>> = Mutex::new(None);

struct Raw {
    /// The settings to come back to.
    found: Termios,
    /// Those of raw mode.
    raw: Termios,
}

nix::ioctl_read_bad!(
    /// Reads a terminal's size (tty_ioctl(4)).
    get_size,
    libc::TIOCGWINSZ,
    libc::winsize
);

/// The size of the terminal on standard input, if it is one that has a size.
fn size() -> Option<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes one `winsize`, to where there is one.
    unsafe { get_size(io::stdin().as_raw_fd(), &raw mut size) }.ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(Size { columns: size.ws_col, rows: size.ws_row })
}

/// The terminal on standard input, for the guest's console. It is restored when dropped.
#[derive(Debug)]
pub struct Terminal {
    /// Whether the user was told of the escape key.
    told: Cell<bool>,
    /// Whether carpel was in the foreground when it last looked.
    foreground: Cell<bool>,
    /// Becomes readable when that comes true again: what was typed may wait since then.
    regained: EventFd,
    /// The port that shows the terminal's size.
    port: Option<ConsoleHandle>,
}

impl Terminal {
    /// The terminal on standard input, if that is one; raw from now on, if carpel is in its foreground. A fault, a
    /// panic and the signals that end carpel restore it.
    pub fn open() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        signals::restore_terminal_on_faults()?;
        let regained = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let terminal = Self { told: Cell::new(false), foreground: Cell::new(false), regained, port: None };
        terminal.enter()?;
        Ok(Some(terminal))
    }

    /// The same, with a port to be told its size.
    pub(crate) fn with_port(mut self, port: Option<ConsoleHandle>) -> Self {
        self.port = port;
        self.tell_size();
        self
    }

    /// Becomes readable when carpel is in the foreground again.
    pub(crate) const fn regained(&self) -> &EventFd {
        &self.regained
    }

    /// Makes the terminal raw, if carpel is in its foreground; to be called after a stop, in which others may have had
    /// it.
    pub(crate) fn take(&self) {
        if let Err(error) = self.enter() {
            log::warn!("Cannot set the terminal to raw mode: {error}");
        }
    }

    /// Looks whether carpel has come to the foreground, as shells send no signal to a job that runs already, or has
    /// left it.
    pub(crate) fn look(&self) {
        if in_foreground(io::stdin()) != self.foreground.get() {
            self.take();
        }
    }

    /// Tells the guest how large the terminal is.
    pub(crate) fn tell_size(&self) {
        if let (Some(port), Some(size)) = (&self.port, size()) {
            port.resize(size);
        }
    }

    fn enter(&self) -> io::Result<()> {
        self.foreground.set(in_foreground(io::stdin()));
        if !self.foreground.get() {
            // Whoever has it now has made it as they want it.
            *lock() = None;
            return Ok(());
        }
        make_raw()?;
        // The background is told neither of sizes nor of input. The counter cannot overflow: each count is read.
        self.tell_size();
        let _ = self.regained.write(1);
        if !self.told.replace(true) {
            diagnostics::print(HINT);
        }
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes standard input raw: every key goes to the guest as it is. Output processing stays as it is, so that messages
/// of carpel's look right.
fn make_raw() -> io::Result<()> {
    let mut state = lock();
    let now = tcgetattr(io::stdin())?;
    let found = match state.take() {
        // Nobody has touched it: carpel was stopped by a signal that cannot be caught.
        Some(Raw { found, raw }) if is_same(&now, &raw) => found,
        _ => now,
    };
    let mut raw = found.clone();
    raw.input_flags &= !(InputFlags::IGNBRK
        | InputFlags::BRKINT
        | InputFlags::PARMRK
        | InputFlags::ISTRIP
        | InputFlags::INLCR
        | InputFlags::IGNCR
        | InputFlags::ICRNL
        | InputFlags::IXON);
    raw.local_flags &=
        !(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG | LocalFlags::IEXTEN);
    raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
    *state = Some(Raw { found, raw });
    Ok(())
}

fn is_same(one: &Termios, other: &Termios) -> bool {
    (one.input_flags, one.output_flags, one.control_flags, one.local_flags, one.control_chars)
        == (other.input_flags, other.output_flags, other.control_flags, other.local_flags, other.control_chars)
}

/// Brings the terminal back to how it was found, if it is raw and carpel is in its foreground still. A signal's handler
/// may call it.
pub fn restore() {
    for _ in 0..TRIES {
        let mut state = match RAW.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) => {
                thread::yield_now();
                continue;
            }
        };
        if let Some(Raw { found, .. }) = state.take()
            && in_foreground(io::stdin())
        {
            // There is no better place to be told that the terminal is gone.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &found);
        }
        return;
    }
}

fn lock() -> MutexGuard<'static, Option<Raw>> {
    RAW.lock().unwrap_or_else(PoisonError::into_inner)
}
