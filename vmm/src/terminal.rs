//! The user's terminal in raw mode, and out of it again whatever happens.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsRawFd as _;
use std::panic;
use std::sync::{Mutex, PoisonError};

use carpel_devices::virtio::console::Size;
use nix::sys::termios::{InputFlags, LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

nix::ioctl_read_bad!(
    /// Reads a terminal's size (tty_ioctl(4)).
    get_size,
    libc::TIOCGWINSZ,
    libc::winsize
);

/// The size of the terminal on standard input, if it is one that has a size.
pub fn size() -> Option<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes one `winsize`, to where there is one.
    unsafe { get_size(io::stdin().as_raw_fd(), &raw mut size) }.ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(Size { columns: size.ws_col, rows: size.ws_row })
}

/// Standard input in raw mode, until dropped. A panic restores it, too.
pub struct RawTerminal {
    saved: Termios,
}

impl RawTerminal {
    /// Makes standard input raw if it is a terminal: every key goes to the guest as it is. Output processing stays as
    /// it is, so that messages of the monitor's look right.
    pub fn enter() -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let saved = tcgetattr(io::stdin())?;
        let mut raw = saved.clone();
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

        let (previous, on_panic) = (panic::take_hook(), Mutex::new(saved.clone()));
        panic::set_hook(Box::new(move |info| {
            restore(&on_panic.lock().unwrap_or_else(PoisonError::into_inner));
            previous(info);
        }));
        Ok(Some(Self { saved }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore(&self.saved);
    }
}

fn restore(saved: &Termios) {
    // There is no better place to be told that the terminal is gone.
    let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, saved);
}
