//! i8042 keyboard controller without a keyboard or mouse: reset, self-test, and answers to whoever waits for one.
//!
//! Source: IBM PC AT Technical Reference, "Keyboard controller"; the commands are those of the PS/2 controller.
//!
//! | offset | port | register |
//! | --- | --- | --- |
//! | 0 | 0x60 | data: the last answer; a write is the last command's operand, or a byte for the absent keyboard |
//! | 4 | 0x64 | status; command |
//!
//! | status bit | meaning |
//! | --- | --- |
//! | 0 | an answer waits |
//! | 1 | busy: never, so a guest never waits to write |
//! | 2 | system flag, the command byte's |
//! | 3 | the last write was a command |
//! | 4 | not locked: always |
//!
//! | command | effect |
//! | --- | --- |
//! | 0x20, 0x60 | read, write the command byte |
//! | 0xAA | self-test: answers 0x55 |
//! | 0xAB | keyboard line test: answers 0, no fault |
//! | 0xD0, 0xD1 | read, write the output port: bit 0 clear resets, bit 1 (A20) is stored only |
//! | 0xF0-0xFF | pulse the output bits that are 0: bit 0 resets, as in 0xFE |
//! | all else | nothing |
//!
//! A byte for the keyboard is answered by 0xFE, "resend", as if the line were disturbed. IRQ 1 is never raised. The port
//! between the two, 0x61, is no part of the controller.

use crate::bus::BusDevice;
use crate::event::{EventSink, GuestEvent};
use crate::legacy::registers::answer_byte;
use std::sync::Arc;

const ANSWER_WAITS: u8 = 1 << 0;
const SYSTEM_FLAG: u8 = 1 << 2;
const WAS_COMMAND: u8 = 1 << 3;
const NOT_LOCKED: u8 = 1 << 4;

const READ_COMMAND_BYTE: u8 = 0x20;
const WRITE_COMMAND_BYTE: u8 = 0x60;
const SELF_TEST: u8 = 0xaa;
const LINE_TEST: u8 = 0xab;
const READ_OUTPUT_PORT: u8 = 0xd0;
const WRITE_OUTPUT_PORT: u8 = 0xd1;
const FIRST_PULSE: u8 = 0xf0;

const SELF_TEST_PASSED: u8 = 0x55;
const LINE_WITHOUT_FAULT: u8 = 0x00;
const RESEND: u8 = 0xfe;

/// The output bit that holds the CPU in reset while it is 0.
const NOT_RESET: u8 = 1 << 0;
const A20: u8 = 1 << 1;

/// As a PC's BIOS leaves the command byte: self-test passed, scan codes translated, no interrupts.
const COMMAND_BYTE_START: u8 = SYSTEM_FLAG | 1 << 6;

/// The keyboard controller.
pub struct I8042 {
    answer: Option<u8>,
    /// What the data port shows between answers: the last one.
    shown: u8,
    command_byte: u8,
    output_port: u8,
    /// The command whose operand comes next.
    wants_operand: Option<u8>,
    was_command: bool,
    events: Arc<dyn EventSink>,
}

impl I8042 {
    /// Offset of the data register.
    pub const DATA: u64 = 0;
    /// Offset of the status and command register.
    pub const COMMAND: u64 = 4;

    /// A controller that reports resets to `events`.
    pub fn new(events: Arc<dyn EventSink>) -> Self {
        Self {
            answer: None,
            shown: 0,
            command_byte: COMMAND_BYTE_START,
            output_port: NOT_RESET | A20,
            wants_operand: None,
            was_command: false,
            events,
        }
    }

    fn status(&self) -> u8 {
        let answer = if self.answer.is_some() { ANSWER_WAITS } else { 0 };
        let command = if self.was_command { WAS_COMMAND } else { 0 };
        NOT_LOCKED | self.command_byte & SYSTEM_FLAG | answer | command
    }

    fn read_data(&mut self) -> u8 {
        self.shown = self.answer.take().unwrap_or(self.shown);
        self.shown
    }

    fn command(&mut self, command: u8) {
        self.was_command = true;
        self.wants_operand = None;
        match command {
            READ_COMMAND_BYTE => self.answer = Some(self.command_byte),
            SELF_TEST => self.answer = Some(SELF_TEST_PASSED),
            LINE_TEST => self.answer = Some(LINE_WITHOUT_FAULT),
            READ_OUTPUT_PORT => self.answer = Some(self.output_port),
            WRITE_COMMAND_BYTE | WRITE_OUTPUT_PORT => self.wants_operand = Some(command),
            FIRST_PULSE.. => self.reset_unless(command),
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.was_command = false;
        match self.wants_operand.take() {
            Some(WRITE_OUTPUT_PORT) => {
                self.output_port = value;
                self.reset_unless(value);
            }
            Some(_) => self.command_byte = value,
            None => self.answer = Some(RESEND),
        }
    }

    fn reset_unless(&self, outputs: u8) {
        if outputs & NOT_RESET == 0 {
            self.events.event(GuestEvent::Reset);
        }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        answer_byte(data, || match offset {
            Self::DATA => self.read_data(),
            Self::COMMAND => self.status(),
            _ => 0xff,
        });
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data.first()) {
            (Self::DATA, Some(&value)) => self.write_data(value),
            (Self::COMMAND, Some(&value)) => self.command(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::Recorder;

    fn read(i8042: &mut I8042, offset: u64) -> u8 {
        let mut data = [0; 1];
        i8042.read(offset, &mut data);
        data[0]
    }

    #[test]
    fn only_a_pulse_or_a_low_output_on_the_reset_line_resets() {
        let events = Recorder::new();
        let mut i8042 = I8042::new(events.clone());
        i8042.write(I8042::DATA, &[0xfe]);
        i8042.write(I8042::COMMAND, &[0xaa]);
        i8042.write(I8042::COMMAND, &[0xff]);
        i8042.write(I8042::COMMAND, &[]);
        i8042.write(I8042::COMMAND + 0x100, &[0xfe]);
        i8042.write(I8042::COMMAND, &[WRITE_OUTPUT_PORT]);
        i8042.write(I8042::DATA, &[A20 | NOT_RESET]);
        assert_eq!(events.take(), []);
        i8042.write(I8042::COMMAND, &[0xfe]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
        i8042.write(I8042::COMMAND, &[WRITE_OUTPUT_PORT]);
        i8042.write(I8042::DATA, &[A20]);
        assert_eq!(events.take(), [GuestEvent::Reset]);
    }

    #[test]
    fn commands_are_answered_once() {
        let mut i8042 = I8042::new(Recorder::new());
        for (command, answer) in [(0x20, COMMAND_BYTE_START), (0xaa, 0x55), (0xab, 0), (0xd0, 3)] {
            i8042.write(I8042::COMMAND, &[command]);
            assert_eq!(read(&mut i8042, I8042::COMMAND), 0x1d);
            assert_eq!(read(&mut i8042, I8042::DATA), answer);
            assert_eq!(read(&mut i8042, I8042::COMMAND), 0x1c);
        }
    }

    #[test]
    fn the_command_byte_reads_back() {
        let mut i8042 = I8042::new(Recorder::new());
        i8042.write(I8042::COMMAND, &[WRITE_COMMAND_BYTE]);
        i8042.write(I8042::DATA, &[0x61]);
        assert_eq!(read(&mut i8042, I8042::COMMAND), 0x10, "no system flag, and a data byte came last");
        i8042.write(I8042::COMMAND, &[READ_COMMAND_BYTE]);
        assert_eq!(read(&mut i8042, I8042::DATA), 0x61);
    }

    #[test]
    fn the_absent_keyboard_asks_to_resend() {
        let mut i8042 = I8042::new(Recorder::new());
        assert_eq!([read(&mut i8042, I8042::DATA), read(&mut i8042, I8042::COMMAND)], [0, 0x14]);
        i8042.write(I8042::DATA, &[0xf4]);
        assert_eq!([read(&mut i8042, I8042::COMMAND), read(&mut i8042, I8042::DATA)], [0x15, 0xfe]);
    }
}
