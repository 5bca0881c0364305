//! How a device gets its driver's attention.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::interrupt::IrqLine;

/// Interrupt status (section 4.2.2): buffers of a queue were used.
const USED: u32 = 1 << 0;
/// Interrupt status: the configuration changed.
const CONFIG: u32 = 1 << 1;

/// A device's interrupt with what the driver reads about it. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    line: IrqLine,
    status: AtomicU32,
    generation: AtomicU32,
    /// The driver is ready: it can be interrupted.
    live: AtomicBool,
    broken: AtomicBool,
}

impl Interrupt {
    /// An interrupt by this line, of a device whose driver is not there yet.
    pub fn new(line: IrqLine) -> Self {
        let (status, generation) = (AtomicU32::new(0), AtomicU32::new(0));
        Self(Arc::new(Shared {
            line,
            status,
            generation,
            live: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        }))
    }

    /// Configuration space changed by the device's own doing.
    pub fn config_changed(&self) {
        self.0.generation.fetch_add(1, Ordering::Release);
        self.raise(CONFIG);
    }

    /// Buffers of a queue were used.
    pub(super) fn used(&self) {
        self.raise(USED);
    }

    /// The device can only go on after a reset (section 2.1.2).
    pub(super) fn needs_reset(&self) {
        self.0.broken.store(true, Ordering::Release);
        self.raise(CONFIG);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Acquire)
    }

    /// Whether interrupts reach the driver from now on.
    pub(super) fn set_live(&self, live: bool) {
        self.0.live.store(live, Ordering::Release);
    }

    /// Forgets all but the generation: that must not repeat.
    pub(super) fn reset(&self) {
        self.set_live(false);
        self.0.broken.store(false, Ordering::Release);
        self.0.status.store(0, Ordering::Release);
    }

    pub(super) fn status(&self) -> u32 {
        self.0.status.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.0.status.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(super) fn generation(&self) -> u32 {
        self.0.generation.load(Ordering::Acquire)
    }

    pub(super) fn line(&self) -> &IrqLine {
        &self.0.line
    }

    fn raise(&self, bit: u32) {
        if self.0.live.load(Ordering::Acquire) {
            self.0.status.fetch_or(bit, Ordering::AcqRel);
            // It fails only when its counter is full, and then an edge is on its way.
            let _ = self.0.line.trigger();
        }
    }
}
