//! Job control: whose turn it is at a terminal.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::{getpgrp, tcgetpgrp};

/// Whether this process may read from a terminal and change its settings. Off the terminal's foreground it may not:
/// what is typed there is for others. A terminal that does not control this session has no foreground for it, and is
/// free to use (`tty_check_change` in drivers/tty/tty_jobctrl.c). One that is gone may not be used.
pub fn in_foreground(terminal: impl AsFd) -> bool {
    match tcgetpgrp(terminal) {
        Ok(group) => group == getpgrp(),
        Err(error) => error == Errno::ENOTTY,
    }
}
