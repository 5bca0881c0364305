//! What every source of the main thread's events needs.

use std::io;
use std::time::Duration;

use event_manager::{EventOps, Events};
use vmm_sys_util::timerfd::TimerFd;

use crate::outcome::{Outcome, Shutdown};

/// A timer that comes again and again.
pub(crate) fn periodic(interval: Duration) -> io::Result<TimerFd> {
    let mut timer = TimerFd::new()?;
    timer.reset(interval, Some(interval))?;
    Ok(timer)
}

/// Registers a file for reading.
pub(crate) fn watch_readable(ops: &mut EventOps, events: Events, shutdown: &Shutdown) {
    if let Err(error) = ops.add(events) {
        shutdown.end(Outcome::Failed(format!("Cannot watch for events: {error}")));
    }
}
