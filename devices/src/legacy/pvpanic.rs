//! pvpanic at port 0x505: how a guest's kernel says that it panicked.
//!
//! Source: QEMU's docs/specs/pvpanic.rst; Linux's drivers/misc/pvpanic.
//!
//! | offset | register |
//! | --- | --- |
//! | 0 | read: the events that are understood; write: the event that happened |
//!
//! Bit 0 is a panic, bit 1 a panic after which the guest starts its crash kernel.

use crate::bus::BusDevice;
use crate::event::{EventSink, GuestEvent};
use crate::legacy::registers::answer_byte;
use std::sync::Arc;

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

/// The panic port.
pub struct PvPanic(Arc<dyn EventSink>);

impl PvPanic {
    /// A port that reports panics to `events`.
    pub fn new(events: Arc<dyn EventSink>) -> Self {
        Self(events)
    }
}

impl BusDevice for PvPanic {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        answer_byte(data, || PANICKED | CRASH_LOADED);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        // The worse of the two wins: a guest that panicked for good does not come back.
        if value & PANICKED != 0 {
            self.0.event(GuestEvent::Panicked);
        } else if value & CRASH_LOADED != 0 {
            self.0.event(GuestEvent::CrashLoaded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::Recorder;

    #[test]
    fn each_bit_is_an_event() {
        let events = Recorder::new();
        let mut port = PvPanic::new(events.clone());
        let mut supported = [0];
        port.read(0, &mut supported);
        assert_eq!(supported, [3]);
        for value in [0, 0xfc, 1, 2, 3] {
            port.write(0, &[value]);
        }
        let expected = [GuestEvent::Panicked, GuestEvent::CrashLoaded, GuestEvent::Panicked];
        assert_eq!(events.take(), expected);
    }
}
