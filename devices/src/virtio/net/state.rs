//! The state of a device's link, which the driver sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::virtio::interrupt::Interrupt;

/// Whether the interface is still there, for the driver to read.
#[derive(Clone)]
pub struct LinkState {
    pub is_up: Arc<AtomicBool>,
    pub interrupt: Interrupt,
}

impl LinkState {
    /// Returns whether it was there until now.
    pub fn set_down(&self) -> bool {
        self.interrupt.config_changed(|| self.is_up.swap(false, Ordering::AcqRel))
    }
}
