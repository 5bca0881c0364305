//! PL011 UART, the serial port of Arm boards.
//!
//! Source: Arm DDI 0183, "`PrimeCell` UART (PL011) Technical Reference Manual". The FIFOs are always on, the transmitter is
//! always ready, baud rate and line format are stored and mean nothing; there is no DMA, no loopback and no modem.
//!
//! | offset | register |
//! | --- | --- |
//! | 0x00 | `UARTDR`: received byte; byte to transmit |
//! | 0x04 | `UARTRSR`: receive errors, none |
//! | 0x18 | `UARTFR`: flags |
//! | 0x20, 0x24, 0x28, 0x2C, 0x34, 0x48 | `UARTILPR`, `UARTIBRD`, `UARTFBRD`, `UARTLCR_H`, `UARTIFLS`, `UARTDMACR`: stored |
//! | 0x30 | `UARTCR`: control, stored |
//! | 0x38 | `UARTIMSC`: interrupt mask, a one lets an interrupt through |
//! | 0x3C, 0x40 | `UARTRIS`, `UARTMIS`: raw and masked interrupts |
//! | 0x44 | `UARTICR`: a one takes an interrupt back |
//! | 0xFE0 to 0xFFC | identification |
//!
//! Its registers are 32 bits wide. The interrupt line is edge-triggered: it rises with each interrupt that becomes pending
//! and unmasked, and drivers look again until none is.
//!
//! **Input** is taken while the guest listens, as by the PC's [serial port](super::serial): with a receive interrupt unmasked,
//! or reading the flags again and again. Nothing empties the receive FIFO but reading it. Linux does that when it opens the port,
//! right after it has taken the masked receive interrupts back; so while the guest does not listen, taking them back sets
//! aside what it was not shown (`UARTRIS`, `UARTMIS`), until it listens.

use crate::bus::BusDevice;
use crate::console::{ConsolePort, Intake, Output};
use crate::interrupt::InterruptSink;
use crate::legacy::receiver::Receiver;
use crate::legacy::registers::{answer_word, primecell_id, word};
use std::io::{self, Write};
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const CONTROL: u64 = 0x30;
const MASK: u64 = 0x38;
const RAW: u64 = 0x3C;
const MASKED: u64 = 0x40;
const CLEAR: u64 = 0x44;
const IDENTIFICATION: u64 = 0xFE0;
/// Registers that keep what is written to them: from here to `UARTDMACR` (0x48), where no other register is.
const STORED: u64 = 0x20;
const STORED_COUNT: usize = 11;

/// Flags: the receive FIFO is empty or full, the transmit FIFO is empty.
const RECEIVE_EMPTY: u32 = 1 << 4;
const RECEIVE_FULL: u32 = 1 << 6;
const TRANSMIT_EMPTY: u32 = 1 << 7;

/// Interrupts: the receive FIFO has reached its level, the transmit FIFO has fallen to its own, and bytes have been in the
/// receive FIFO for a while.
const RECEIVE: u32 = 1 << 4;
const TRANSMIT: u32 = 1 << 5;
const RECEIVE_TIMEOUT: u32 = 1 << 6;
/// All eleven interrupts that the mask register has bits for.
const INTERRUPTS: u32 = 0x7FF;

/// After reset both directions are enabled (DDI 0183, section 3.3.8).
const CONTROL_RESET: u32 = 0x300;
/// Revision r1p5, whose FIFOs hold 32 bytes (DDI 0183, section 3.3.15).
const PERIPHERAL_ID: [u8; 4] = [0x11, 0x10, 0x34, 0x00];
const FIFO: usize = 32;

/// The UART.
pub struct Pl011 {
    irq: Box<dyn InterruptSink>,
    output: Output,
    receiver: Receiver,
    raw: u32,
    mask: u32,
    stored: [u32; STORED_COUNT],
    intake: Intake,
    output_failed: bool,
}

impl Pl011 {
    /// Length of the register range in bytes.
    pub const LEN: u64 = 0x1000;

    /// A port that interrupts by `irq` and transmits to `output`, one write and flush for each byte. A byte that
    /// `output` does not take, or whose write a signal interrupts, is lost. The error is that of creating an eventfd.
    pub fn new(irq: impl InterruptSink + 'static, output: Box<dyn Write + Send>) -> io::Result<Self> {
        let mut stored = [0; STORED_COUNT];
        stored[((CONTROL - STORED) / 4) as usize] = CONTROL_RESET;
        Ok(Self {
            irq: Box::new(irq),
            output: Output(output),
            receiver: Receiver::default(),
            raw: 0,
            mask: 0,
            stored,
            intake: Intake::new()?,
            output_failed: false,
        })
    }

    fn listens(&self) -> bool {
        self.mask & (RECEIVE | RECEIVE_TIMEOUT) != 0 || self.intake.is_polled()
    }

    fn flags(&self) -> u32 {
        let received = match self.receiver.len() {
            _ if !self.receiver.has_data() => RECEIVE_EMPTY,
            FIFO.. => RECEIVE_FULL,
            _ => 0,
        };
        TRANSMIT_EMPTY | received
    }

    fn receive(&mut self) -> u32 {
        let byte = self.receiver.pop().unwrap_or(0);
        if !self.receiver.has_data() {
            self.raw &= !(RECEIVE | RECEIVE_TIMEOUT);
        }
        byte.into()
    }

    fn transmit(&mut self, byte: u8) {
        let written = self.output.write_all(&[byte]).and_then(|()| self.output.flush());
        if let Err(error) = written
            && !self.output_failed
        {
            // The guest can cause one with each byte: only the first is logged.
            log::warn!("Serial output is lost: {error}");
            self.output_failed = true;
        }
        // What is transmitted is gone at once.
        self.set_interrupts(self.raw | TRANSMIT, self.mask);
    }

    /// Tells the guest of interrupts.
    fn tell(&mut self, interrupts: u32) -> u32 {
        if interrupts & (RECEIVE | RECEIVE_TIMEOUT) != 0 {
            self.receiver.show();
        }
        interrupts
    }

    fn clear_interrupts(&mut self, interrupts: u32) {
        self.set_interrupts(self.raw & !interrupts, self.mask);
        if interrupts & (RECEIVE | RECEIVE_TIMEOUT) != 0 && !self.listens() {
            self.receiver.set_aside();
        }
    }

    /// Changes raw interrupts and their mask, and raises an edge if that makes one pending.
    fn set_interrupts(&mut self, raw: u32, mask: u32) {
        let new = raw & mask & !(self.raw & self.mask);
        (self.raw, self.mask) = (raw, mask);
        if new != 0
            && let Err(error) = self.irq.trigger()
        {
            log::debug!("Serial interrupt: {error}");
        }
    }

    fn read_register(&mut self, offset: u64) -> u32 {
        match offset {
            DATA => self.receive(),
            FLAGS => {
                self.intake.status_read();
                self.flags()
            }
            MASK => self.mask,
            RAW => self.tell(self.raw),
            MASKED => self.tell(self.raw & self.mask),
            IDENTIFICATION..=0xFFC => primecell_id(offset, PERIPHERAL_ID),
            _ => stored(offset).map_or(0, |index| self.stored[index]),
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        self.intake.written();
        match offset {
            DATA => self.transmit(value as u8),
            MASK => self.set_interrupts(self.raw, value & INTERRUPTS),
            CLEAR => self.clear_interrupts(value),
            RAW | MASKED => {}
            _ => {
                if let Some(index) = stored(offset) {
                    self.stored[index] = value;
                }
            }
        }
    }

    fn after_access(&mut self) {
        if !self.listens() {
            return;
        }
        if self.receiver.bring_back() {
            self.set_interrupts(self.raw | RECEIVE | RECEIVE_TIMEOUT, self.mask);
        }
        if self.intake.is_awaited() && !self.receiver.has_data() {
            self.intake.has_room();
        }
    }
}

fn stored(offset: u64) -> Option<usize> {
    let index = offset.checked_sub(STORED)? / 4;
    usize::try_from(index).ok().filter(|&index| index < STORED_COUNT)
}

impl ConsolePort for Pl011 {
    fn input(&mut self, bytes: &[u8]) -> usize {
        let room = if self.listens() { FIFO - self.receiver.len() } else { 0 };
        let taken = room.min(bytes.len());
        self.intake.offered(taken == bytes.len());
        if taken > 0 {
            self.receiver.receive(&bytes[..taken]);
            self.set_interrupts(self.raw | RECEIVE | RECEIVE_TIMEOUT, self.mask);
        }
        taken
    }

    fn room(&self) -> Arc<EventFd> {
        self.intake.room()
    }
}

impl BusDevice for Pl011 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if data.is_empty() || !offset.is_multiple_of(4) {
            return data.fill(0);
        }
        let value = self.read_register(offset);
        answer_word(data, value);
        self.after_access();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if !data.is_empty() && offset.is_multiple_of(4) {
            self.write_register(offset, word(data));
            self.after_access();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::IrqLine;
    use std::sync::Mutex;

    const LINE_CONTROL: u64 = 0x2C;

    #[derive(Clone, Default)]
    struct Line(Arc<Mutex<Vec<u8>>>);

    impl Write for Line {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn uart() -> (Pl011, IrqLine, Line) {
        let (irq, line) = (IrqLine::new().unwrap(), Line::default());
        (Pl011::new(irq.clone(), Box::new(line.clone())).unwrap(), irq, line)
    }

    fn read(uart: &mut Pl011, offset: u64) -> u32 {
        let mut data = [0xFF; 4];
        uart.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(uart: &mut Pl011, offset: u64, value: u32) {
        uart.write(offset, &value.to_le_bytes());
    }

    fn interrupted(irq: &IrqLine) -> bool {
        irq.eventfd().read().is_ok()
    }

    #[test]
    fn transmits_and_says_so() {
        let (mut uart, irq, line) = uart();
        uart.write(DATA, b"a");
        write(&mut uart, DATA, u32::from(b'b'));
        assert_eq!(*line.0.lock().unwrap(), b"ab");
        assert_eq!(read(&mut uart, FLAGS), TRANSMIT_EMPTY | RECEIVE_EMPTY);
        assert_eq!((read(&mut uart, RAW), read(&mut uart, MASKED)), (TRANSMIT, 0));
        assert!(!interrupted(&irq));
        write(&mut uart, MASK, TRANSMIT);
        assert!(interrupted(&irq));
        write(&mut uart, CLEAR, TRANSMIT);
        assert_eq!(read(&mut uart, MASKED), 0);
        write(&mut uart, DATA, 0);
        assert!(interrupted(&irq));
    }

    #[test]
    fn input_waits_until_the_guest_listens() {
        let (mut uart, irq, _) = uart();
        assert_eq!(uart.input(b"ls"), 0);
        assert!(uart.room().read().is_err());
        write(&mut uart, MASK, RECEIVE | RECEIVE_TIMEOUT);
        assert!(uart.room().read().is_ok());
        assert_eq!(uart.input(b"ls"), 2);
        assert!(interrupted(&irq));
        assert_eq!(read(&mut uart, MASKED), RECEIVE | RECEIVE_TIMEOUT);
        assert_eq!([DATA; 2].map(|data| read(&mut uart, data)), [b'l', b's'].map(u32::from));
        assert_eq!(read(&mut uart, MASKED), 0);
        assert_eq!(read(&mut uart, FLAGS) & RECEIVE_EMPTY, RECEIVE_EMPTY);
    }

    #[test]
    fn a_fifo_of_input_is_taken_at_a_time() {
        let (mut uart, _, _) = uart();
        for _ in 0..16 {
            read(&mut uart, FLAGS);
        }
        assert_eq!(uart.input(&[b'x'; 40]), 32);
        assert_eq!(read(&mut uart, FLAGS) & RECEIVE_FULL, RECEIVE_FULL);
        for _ in 0..32 {
            assert!(uart.room().read().is_err());
            read(&mut uart, DATA);
        }
        assert!(uart.room().read().is_ok());
    }

    #[test]
    fn nothing_but_reading_empties_the_receiver() {
        let (mut uart, _, _) = uart();
        write(&mut uart, MASK, RECEIVE);
        assert_eq!(uart.input(b"typed"), 5);
        let enable_fifos = 1 << 4;
        for line in [0, enable_fifos, 0] {
            write(&mut uart, LINE_CONTROL, line);
            write(&mut uart, CONTROL, 0);
            write(&mut uart, CLEAR, INTERRUPTS);
            write(&mut uart, CONTROL, CONTROL_RESET | 1);
        }
        assert_eq!([DATA; 5].map(|data| read(&mut uart, data) as u8), *b"typed");
    }

    #[test]
    fn a_handler_that_masks_and_takes_back_interrupts_finds_what_it_was_told_of() {
        let (mut uart, irq, _) = uart();
        write(&mut uart, MASK, RECEIVE);
        uart.input(b"ab");
        assert!(interrupted(&irq));
        assert_eq!(read(&mut uart, MASKED), RECEIVE);
        uart.input(b"c");
        write(&mut uart, MASK, 0);
        write(&mut uart, CLEAR, INTERRUPTS);
        assert_eq!([DATA; 3].map(|data| read(&mut uart, data)), [b'a', b'b', 0].map(u32::from));
        assert_eq!(read(&mut uart, FLAGS) & RECEIVE_EMPTY, RECEIVE_EMPTY);
        assert!(!interrupted(&irq));
        write(&mut uart, MASK, RECEIVE);
        assert!(interrupted(&irq), "it is told of what came since");
        assert_eq!(read(&mut uart, DATA), u32::from(b'c'));
    }

    /// `pl011_startup`, `pl011_set_termios`, an interrupt, and `pl011_shutdown`, twice (drivers/tty/serial/amba-pl011.c of
    /// Linux 6.1). Before access `offered_at`, a byte is offered. Returns what was received, and how many accesses that took.
    fn open_by_linux(offered_at: usize) -> (Vec<u8>, usize) {
        let (mut uart, _, _) = uart();
        let (mut accesses, mut received, mut pending) = (0, Vec::new(), Vec::new());
        let mut access = |register: u64, value: Option<u32>| {
            if accesses == offered_at {
                pending.push(b'x');
            }
            if accesses == offered_at || uart.room().read().is_ok() {
                let taken = uart.input(&pending);
                pending.drain(..taken);
            }
            accesses += 1;
            match value {
                Some(value) => write(&mut uart, register, value),
                None => return read(&mut uart, register),
            }
            0
        };
        let errors = 0xf << 7;
        for _ in 0..2 {
            access(CLEAR, Some(errors | RECEIVE | RECEIVE_TIMEOUT));
            let saved = access(MASK, None);
            access(MASK, Some(RECEIVE | RECEIVE_TIMEOUT));
            access(MASK, Some(saved));
            access(CONTROL, Some(CONTROL_RESET | 1));
            access(FLAGS, None);
            access(CLEAR, Some(RECEIVE | RECEIVE_TIMEOUT));
            while access(FLAGS, None) & RECEIVE_EMPTY == 0 {
                access(DATA, None);
            }
            access(MASK, Some(RECEIVE | RECEIVE_TIMEOUT));
            access(CONTROL, Some(0));
            access(LINE_CONTROL, Some(0x70));
            access(CONTROL, Some(CONTROL_RESET | 1));
            while access(RAW, None) & (RECEIVE | RECEIVE_TIMEOUT) != 0 {
                while access(FLAGS, None) & RECEIVE_EMPTY == 0 {
                    received.push(access(DATA, None) as u8);
                }
            }
            access(MASK, Some(0));
            access(CLEAR, Some(0xffff));
            access(CONTROL, Some(0x101));
            access(LINE_CONTROL, Some(0x60));
        }
        // The last byte may still be in the port.
        access(MASK, Some(RECEIVE));
        while access(FLAGS, None) & RECEIVE_EMPTY == 0 {
            received.push(access(DATA, None) as u8);
        }
        (received, accesses)
    }

    #[test]
    fn no_byte_is_lost_between_two_accesses_of_linux() {
        let (received, accesses) = open_by_linux(usize::MAX);
        assert!(received.is_empty());
        for access in 0..accesses - 1 {
            assert_eq!(open_by_linux(access).0, *b"x", "before access {access}");
        }
    }

    #[test]
    fn it_is_a_pl011_of_arm() {
        let (mut uart, _, _) = uart();
        let id: Vec<_> = (0xFE0..0x1000).step_by(4).map(|offset| read(&mut uart, offset)).collect();
        assert_eq!(id, [0x11, 0x10, 0x34, 0x00, 0x0D, 0xF0, 0x05, 0xB1]);
    }

    #[test]
    fn settings_are_kept_and_odd_accesses_find_nothing() {
        let (mut uart, irq, line) = uart();
        assert_eq!(read(&mut uart, CONTROL), CONTROL_RESET);
        write(&mut uart, 0x2C, 0x70);
        assert_eq!(read(&mut uart, 0x2C), 0x70);
        for offset in (0..Pl011::LEN + 8).chain([u64::MAX]) {
            for width in [0, 1, 2, 4, 8] {
                uart.read(offset, &mut vec![0; width]);
                uart.write(offset, &vec![0; width]);
            }
        }
        assert_eq!(read(&mut uart, 0x1), 0);
        assert!(!interrupted(&irq));
        assert_eq!(line.0.lock().unwrap().len(), 4);
    }
}
