//! Debug-exit port at 0xF4: how a test guest ends the machine with a status of its own.
//!
//! Source: QEMU's `isa-debug-exit` (hw/misc/debugexit.c), 4 bytes by default.
//!
//! | offset | register |
//! | --- | --- |
//! | 0 | write: the value, 1 to 4 bytes, little endian; reads 0 |

use crate::bus::BusDevice;
use crate::event::{EventSink, GuestEvent};
use std::sync::Arc;

/// The debug-exit port.
pub struct DebugExit(Arc<dyn EventSink>);

impl DebugExit {
    /// A port that reports what is written to `events`.
    pub fn new(events: Arc<dyn EventSink>) -> Self {
        Self(events)
    }
}

impl BusDevice for DebugExit {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset != 0 || data.is_empty() {
            return;
        }
        let mut value = [0; 4];
        let len = data.len().min(value.len());
        value[..len].copy_from_slice(&data[..len]);
        self.0.event(GuestEvent::DebugExit(u32::from_le_bytes(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::Recorder;

    #[test]
    fn the_value_has_the_width_of_the_write() {
        let events = Recorder::new();
        let mut port = DebugExit::new(events.clone());
        port.write(0, &[3]);
        port.write(0, &[1, 2, 3, 4]);
        port.write(0, &[1, 2, 3, 4, 5]);
        port.write(0, &[]);
        port.write(1, &[3]);
        let value = GuestEvent::DebugExit(0x0403_0201);
        assert_eq!(events.take(), [GuestEvent::DebugExit(3), value, value]);
    }
}
