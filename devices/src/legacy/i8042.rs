//! i8042 keyboard controller, as far as a reset needs it.
//!
//! Source: IBM PC AT Technical Reference, "Keyboard controller"; vm-superio's `I8042Device`. No keyboard or mouse is
//! attached: nothing is ever received.
//!
//! | offset | port | register |
//! | --- | --- | --- |
//! | 0 | 0x60 | data: reads 0 |
//! | 4 | 0x64 | status: reads 0, so a guest never waits for the input buffer to drain; command: 0xFE resets |
//!
//! The port between them, 0x61, is no part of it.

use crate::bus::BusDevice;
use crate::event::{EventSink, GuestEvent};
use crate::legacy::answer_byte;
use std::convert::Infallible;
use std::sync::Arc;
use vm_superio::{I8042Device, Trigger};

/// The keyboard controller.
pub struct I8042(I8042Device<ResetLine>);

/// The controller's output that is wired to the CPU's reset.
struct ResetLine(Arc<dyn EventSink>);

impl I8042 {
    /// Offset of the data register.
    pub const DATA: u64 = 0;
    /// Offset of the status and command register.
    pub const COMMAND: u64 = 4;

    /// A controller that reports resets to `events`.
    pub fn new(events: Arc<dyn EventSink>) -> Self {
        Self(I8042Device::new(ResetLine(events)))
    }
}

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.event(GuestEvent::Reset);
        Ok(())
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        answer_byte(data, || self.0.read(offset as u8));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), Some(&value)) = (u8::try_from(offset), data.first()) {
            let Ok(()) = self.0.write(offset, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::Recorder;

    #[test]
    fn only_the_reset_command_resets() {
        let events = Recorder::new();
        let mut i8042 = I8042::new(events.clone());
        i8042.write(I8042::DATA, &[0xfe]);
        i8042.write(I8042::COMMAND, &[0xaa]);
        i8042.write(I8042::COMMAND, &[]);
        i8042.write(I8042::COMMAND + 0x100, &[0xfe]);
        assert_eq!(events.take(), []);
        i8042.write(I8042::COMMAND, &[0xfe]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }

    #[test]
    fn the_status_says_that_a_command_may_be_written() {
        let mut status = [0xff; 2];
        I8042::new(Recorder::new()).read(I8042::COMMAND, &mut status);
        assert_eq!(status, [0, 0xff]);
    }
}
