//! How a device gets its driver's attention.
//!
//! A device says what it notifies its driver of (section 2.3): a queue's used buffers, or a change of the configuration. Behind
//! that is a sink, which the transport chooses: one interrupt for all of it, told apart by the interrupt status, as
//! over MMIO; or a message for each queue, as MSI-X has it over PCI, for which a sink looks up the queue's vector.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::InterruptSink;

/// Interrupt status (section 4.2.2): buffers of a queue were used.
const USED: u32 = 1 << 0;
/// Interrupt status: the configuration changed.
const CONFIG: u32 = 1 << 1;

/// What a device notifies its driver of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// Buffers of this queue were used.
    UsedBuffer(usize),
    /// The configuration changed, or the device needs a reset.
    ConfigChange,
}

/// Where a device's notifications go.
pub trait NotificationSink: Debug + Send + Sync {
    /// Interrupts the driver. Any thread calls this, also one that must not wait.
    fn notify(&self, notification: Notification);
}

/// All notifications share one interrupt; the driver finds in the interrupt status what it is about.
impl<S: InterruptSink> NotificationSink for S {
    fn notify(&self, _: Notification) {
        if let Err(error) = self.trigger() {
            log::debug!("virtio interrupt: {error}");
        }
    }
}

/// A device's interrupt with what the driver reads about it. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sink: Box<dyn NotificationSink>,
    status: AtomicU32,
    /// It is locked as long as the configuration changes: no driver that reads it twice sees half of a change in between.
    generation: Mutex<u32>,
    /// The driver is ready: it can be interrupted.
    live: AtomicBool,
    needs_reset: AtomicBool,
    /// Who is woken when the device needs a reset.
    watchers: Mutex<Vec<Arc<EventFd>>>,
}

/// An interrupt's state, as values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterruptState {
    /// What the driver has not acknowledged: bits of the interrupt status.
    pub status: u32,
    /// How often the configuration changed by the device's own doing.
    pub generation: u32,
    /// The driver is ready, and is interrupted.
    pub live: bool,
    /// The device only goes on after a reset.
    pub needs_reset: bool,
}

impl Interrupt {
    /// The interrupt of a device whose driver is not there yet.
    pub fn new(sink: Box<dyn NotificationSink>) -> Self {
        let (live, needs_reset) = (AtomicBool::new(false), AtomicBool::new(false));
        let (generation, watchers) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { sink, status: AtomicU32::new(0), generation, live, needs_reset, watchers }))
    }

    /// Has configuration space changed by the device's own doing: by `change`, which says whether it did, and with the
    /// generation at once (section 2.5.3). Returns the same.
    pub fn config_changed(&self, change: impl FnOnce() -> bool) -> bool {
        let mut generation = self.generation();
        let changed = change();
        if changed {
            *generation = generation.wrapping_add(1);
            drop(generation);
            self.raise(Notification::ConfigChange);
        }
        changed
    }

    /// Has the event signalled when the device needs a reset: then none of its workers may go on.
    pub(super) fn watch(&self, event: &Arc<EventFd>) {
        self.watchers().push(Arc::clone(event));
    }

    /// Whether the device only goes on after a reset.
    pub(super) fn awaits_reset(&self) -> bool {
        self.0.needs_reset.load(Ordering::Acquire)
    }

    /// Buffers of the queue were used.
    pub(super) fn used(&self, queue: usize) {
        self.raise(Notification::UsedBuffer(queue));
    }

    /// The device can only go on after a reset (section 2.1.2).
    pub(super) fn needs_reset(&self) {
        self.0.needs_reset.store(true, Ordering::Release);
        for event in &*self.watchers() {
            // It fails only when its counter is full, and then it is readable already.
            let _ = event.write(1);
        }
        self.raise(Notification::ConfigChange);
    }

    /// Whether interrupts reach the driver from now on.
    pub(super) fn set_live(&self, live: bool) {
        self.0.live.store(live, Ordering::Release);
    }

    /// Forgets all but the generation: that must not repeat.
    pub(super) fn reset(&self) {
        self.set_live(false);
        self.0.needs_reset.store(false, Ordering::Release);
        self.0.status.store(0, Ordering::Release);
    }

    /// What the driver can read of it.
    pub(super) fn state(&self) -> InterruptState {
        InterruptState {
            status: self.0.status.load(Ordering::Acquire),
            generation: *self.generation(),
            live: self.0.live.load(Ordering::Acquire),
            needs_reset: self.awaits_reset(),
        }
    }

    fn generation(&self) -> MutexGuard<'_, u32> {
        self.0.generation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Arc<EventFd>>> {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.0.status.fetch_and(!bits, Ordering::AcqRel);
    }

    fn raise(&self, notification: Notification) {
        let bit = match notification {
            Notification::UsedBuffer(_) => USED,
            Notification::ConfigChange => CONFIG,
        };
        if self.0.live.load(Ordering::Acquire) {
            self.0.status.fetch_or(bit, Ordering::AcqRel);
            self.0.sink.notify(notification);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what it was notified of, as a sink with an interrupt for each queue would tell it apart.
    #[derive(Clone, Debug, Default)]
    struct Recorder(Arc<Mutex<Vec<Notification>>>);

    impl NotificationSink for Recorder {
        fn notify(&self, notification: Notification) {
            self.0.lock().unwrap().push(notification);
        }
    }

    #[test]
    fn a_sink_learns_which_queue_it_is_about() {
        let recorder = Recorder::default();
        let interrupt = Interrupt::new(Box::new(recorder.clone()));
        interrupt.used(0);
        interrupt.config_changed(|| true);
        assert_eq!(*recorder.0.lock().unwrap(), [], "no driver is there");
        interrupt.set_live(true);
        interrupt.used(3);
        assert!(interrupt.config_changed(|| true));
        assert!(!interrupt.config_changed(|| false), "nothing is to be told");
        interrupt.needs_reset();
        let expected = [Notification::UsedBuffer(3), Notification::ConfigChange, Notification::ConfigChange];
        assert_eq!(*recorder.0.lock().unwrap(), expected);
        let state = InterruptState { status: USED | CONFIG, generation: 2, live: true, needs_reset: true };
        assert_eq!(interrupt.state(), state);
        interrupt.acknowledge(USED);
        assert_eq!(interrupt.state(), InterruptState { status: CONFIG, ..state });
        interrupt.reset();
        assert_eq!(interrupt.state(), InterruptState { generation: 2, ..InterruptState::default() });
    }
}
