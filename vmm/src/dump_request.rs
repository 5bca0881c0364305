//! The guest's maps on demand, while it runs.

use std::sync::Arc;

use carpel_devices::diagnostics;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use nix::sys::signalfd::SignalFd;

use crate::dump::View;
use crate::events::watch_readable;
use crate::outcome::Shutdown;
use crate::threads::VcpuThreads;

/// Prints the guest's maps when a signal asks for them.
pub(crate) struct DumpRequest {
    pub(crate) fd: SignalFd,
    pub(crate) view: Arc<View>,
    pub(crate) threads: Arc<VcpuThreads>,
    pub(crate) shutdown: Arc<Shutdown>,
}

impl MutEventSubscriber for DumpRequest {
    fn init(&mut self, ops: &mut EventOps) {
        watch_readable(ops, Events::new(&self.fd, EventSet::IN), &self.shutdown);
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        while let Ok(Some(_)) = self.fd.read_signal() {
            // Not through the logger: this was asked for.
            diagnostics::print(&self.view.describe(&self.threads.registers()));
        }
    }
}
