//! What a device tells the machine about the guest as a whole.

/// Something the guest did that may end the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// The guest powered itself off (ACPI S5, PSCI SYSTEM_OFF).
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked (pvpanic bit 0).
    Panicked,
    /// The guest's kernel panicked and now starts its crash kernel (pvpanic bit 1), so it goes on running.
    CrashLoaded,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
}

/// Receives the events of all devices of a machine.
pub trait EventSink: Send + Sync {
    /// Takes note of `event`. Called by the thread of the vCPU that caused it, with the device's lock held: it must not
    /// block, and must not access a bus. The guest can repeat an event at will.
    fn event(&self, event: GuestEvent);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{EventSink, GuestEvent};
    use std::sync::{Arc, Mutex};

    /// Remembers every event.
    #[derive(Default)]
    pub struct Recorder(Mutex<Vec<GuestEvent>>);

    impl Recorder {
        pub fn new() -> Arc<Self> {
            Arc::default()
        }

        /// The events since the last call.
        pub fn take(&self) -> Vec<GuestEvent> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    impl EventSink for Recorder {
        fn event(&self, event: GuestEvent) {
            self.0.lock().unwrap().push(event);
        }
    }
}
