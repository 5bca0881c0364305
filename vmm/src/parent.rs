//! `--die-with-parent`: the process that started carpel, and whether it is still there.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use libc::pid_t;
use nix::unistd::{Pid, getppid};
use thiserror::Error;

use crate::events::watch_readable;
use crate::outcome::{Outcome, Shutdown};

/// The process that started carpel. A pidfd tells of its end; `PR_SET_PDEATHSIG` would tell of its *thread's*
/// (prctl(2)).
#[derive(Debug)]
pub struct Parent {
    /// `None` if it has ended already.
    pidfd: Option<OwnedFd>,
}

/// Why a parent cannot be watched.
#[derive(Debug, Error)]
pub enum ParentError {
    /// It is process 1, to which orphans fall, or a process of another PID namespace.
    #[error(
        "There is no parent to watch (getppid is {0}): start carpel from a process that ends with its user, or leave \
         the option out"
    )]
    None(Pid),
    /// The host has no pidfds, or gives none.
    #[error("Cannot watch process {pid}, the parent, by a pidfd (Linux 5.3 or later)")]
    Pidfd {
        /// The parent.
        pid: Pid,
        /// The cause.
        source: io::Error,
    },
}

impl Parent {
    /// The parent of this process. One that ends unnoticed before this is called cannot be told from the process that
    /// adopts orphans, unless that is process 1.
    pub fn find() -> Result<Self, ParentError> {
        let pid = getppid();
        if pid.as_raw() <= 1 {
            return Err(ParentError::None(pid));
        }
        match pidfd_open(pid) {
            // Another process may have got its number meanwhile.
            Ok(pidfd) => Ok(Self { pidfd: Some(pidfd).filter(|_| getppid() == pid) }),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(Self { pidfd: None }),
            Err(source) => Err(ParentError::Pidfd { pid, source }),
        }
    }
}

/// A descriptor that becomes readable when a process ends, with all of its threads (pidfd_open(2)).
fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only, and has neither flags nor memory of ours.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid_t::from(pid), 0) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number as RawFd) })
}

/// Ends the run when the parent ends.
pub(crate) struct ParentWatch {
    pub(crate) parent: Parent,
    pub(crate) shutdown: Arc<Shutdown>,
}

impl MutEventSubscriber for ParentWatch {
    fn init(&mut self, ops: &mut EventOps) {
        match &self.parent.pidfd {
            Some(pidfd) => watch_readable(ops, Events::new(pidfd, EventSet::IN), &self.shutdown),
            None => self.shutdown.end(Outcome::ParentEnded),
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.shutdown.end(Outcome::ParentEnded);
    }
}
