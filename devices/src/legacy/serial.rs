//! Serial port: a 16550A UART.
//!
//! Source: National Semiconductor PC16550D datasheet; the registers are in `uart.rs`, with what differs from the chip.
//!
//! | offset | read | write |
//! | --- | --- | --- |
//! | 0 | received byte (divisor low with DLAB) | byte to transmit (divisor low with DLAB) |
//! | 1 | interrupt enable (divisor high with DLAB) | the same |
//! | 2 | interrupt identification | FIFO control |
//! | 3 | line control, bit 7 is DLAB | the same |
//! | 4 | modem control, bit 4 is loopback | the same |
//! | 5 | line status | - |
//! | 6 | modem status | - |
//! | 7 | scratch | the same |
//!
//! **Input.** Linux empties the receiver when it opens the port, and input that is piped into the monitor is there long before.
//! So the port takes input only while the guest listens, which is when the receive interrupt is enabled, or when the guest
//! reads the line status again and again without writing anything, as firmware and small kernels do. Linux also enables
//! all four interrupts for a moment, to see whether the chip is there and which interrupt it has; that counts only once
//! the guest identifies an interrupt or transmits, which one that really wants interrupts does at once, because the
//! transmitter interrupts it. What came while the guest listened and was not shown to it outlasts the next opening: see
//! `receiver.rs`.

use crate::bus::BusDevice;
use crate::console::{ConsolePort, Intake, Output};
use crate::interrupt::InterruptSink;
use crate::legacy::registers::answer_byte;
use std::io::{self, Write};
use std::sync::Arc;
use vmm_sys_util::eventfd::EventFd;

#[cfg(test)]
mod linux;
mod uart;

use uart::{ALL_INTERRUPTS, DATA, IDENTIFICATION_OR_FIFO, INTERRUPT_ENABLE, LINE_STATUS, RECEIVED, Uart};

const REGISTERS: u8 = 8;

/// A serial port.
pub struct Serial {
    uart: Uart,
    /// The guest enabled all interrupts, and has neither identified one nor transmitted since.
    probed: bool,
    intake: Intake,
    output_failed: bool,
}

impl Serial {
    /// Length of the register range in bytes.
    pub const LEN: u64 = REGISTERS as u64;

    /// A port that interrupts by `irq` and transmits to `output`, one write and flush for each byte. A byte that
    /// `output` does not take, or whose write a signal interrupts, is lost, as on a line with nobody at the other end.
    /// The error is that of creating an eventfd.
    pub fn new(irq: impl InterruptSink + 'static, output: Box<dyn Write + Send>) -> io::Result<Self> {
        Ok(Self {
            uart: Uart::new(Box::new(irq), Box::new(Output(output))),
            probed: false,
            intake: Intake::new()?,
            output_failed: false,
        })
    }

    fn listens(&self) -> bool {
        let interrupts = self.uart.enabled() & RECEIVED != 0 && !self.probed;
        (interrupts || self.intake.is_polled()) && !self.uart.loopback()
    }

    fn read_register(&mut self, register: u8) -> u8 {
        let value = self.uart.read(register);
        if register == LINE_STATUS {
            self.intake.status_read();
        }
        if register == IDENTIFICATION_OR_FIFO {
            self.probed = false;
        }
        self.after_access();
        // One that does not listen looks for room in the transmitter.
        if self.listens() {
            self.uart.told(register, value);
        }
        value
    }

    fn write_register(&mut self, register: u8, value: u8) {
        if let Err(error) = self.uart.write(register, value) {
            self.report(&error);
        }
        self.intake.written();
        match register {
            INTERRUPT_ENABLE if !self.uart.latch() => self.probed = self.uart.enabled() == ALL_INTERRUPTS,
            DATA if !self.uart.latch() => self.probed = false,
            _ => {}
        }
        self.after_access();
    }

    fn after_access(&mut self) {
        if !self.listens() {
            return;
        }
        self.uart.listen();
        if self.intake.is_awaited() && !self.uart.has_data() {
            self.intake.has_room();
        }
    }

    /// Logs the first error only: the guest can cause one with each byte.
    fn report(&mut self, error: &io::Error) {
        if !self.output_failed {
            log::warn!("Serial output is lost: {error}");
            self.output_failed = true;
        }
    }
}

impl ConsolePort for Serial {
    fn input(&mut self, bytes: &[u8]) -> usize {
        let room = if self.listens() { self.uart.room() } else { 0 };
        let taken = room.min(bytes.len());
        self.intake.offered(taken == bytes.len());
        self.uart.receive(&bytes[..taken]);
        taken
    }

    fn room(&self) -> Arc<EventFd> {
        self.intake.room()
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        answer_byte(data, || register(offset).map_or(0xff, |register| self.read_register(register)));
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Some(register), Some(&value)) = (register(offset), data.first()) {
            self.write_register(register, value);
        }
    }
}

fn register(offset: u64) -> Option<u8> {
    let offset = u8::try_from(offset).ok()?;
    (offset < REGISTERS).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::uart::{DATA_READY, DIVISOR_LATCH_ACCESS, LOOPBACK};
    use super::*;
    use crate::console::POLLS_WHEN_WAITING;
    use crate::interrupt::IrqLine;
    use std::sync::Mutex;

    const DATA: u64 = super::DATA as u64;
    const IER: u64 = INTERRUPT_ENABLE as u64;
    const FCR: u64 = IDENTIFICATION_OR_FIFO as u64;
    const LCR: u64 = 3;
    const MCR: u64 = 4;
    const LSR: u64 = LINE_STATUS as u64;

    /// Takes bytes, or fails each time with one kind of error.
    #[derive(Clone, Default)]
    struct Line {
        bytes: Arc<Mutex<Vec<u8>>>,
        fails: Option<io::ErrorKind>,
    }

    impl Write for Line {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.fails {
                Some(kind) => Err(kind.into()),
                None => self.bytes.lock().unwrap().write(bytes),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn serial() -> (Serial, IrqLine, Line) {
        let (irq, line) = (IrqLine::new().unwrap(), Line::default());
        let mut serial = Serial::new(irq.clone(), Box::new(line.clone())).unwrap();
        serial.write(FCR, &[1]);
        (serial, irq, line)
    }

    fn read(serial: &mut Serial, offset: u64) -> u8 {
        let mut data = [0; 1];
        serial.read(offset, &mut data);
        data[0]
    }

    fn has_room(serial: &Serial) -> bool {
        serial.room().read().is_ok()
    }

    #[test]
    fn transmits_the_first_byte_of_an_access() {
        let (mut serial, _, line) = serial();
        serial.write(DATA, b"a");
        serial.write(DATA, b"bcde");
        serial.write(DATA, b"");
        assert_eq!(*line.bytes.lock().unwrap(), b"ab");
        let mut wide = [0; 4];
        serial.read(LSR, &mut wide);
        assert_eq!(wide, [0x60, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn input_interrupts_a_guest_that_enabled_the_interrupt() {
        let (mut serial, irq, _) = serial();
        serial.write(IER, &[RECEIVED]);
        assert!(irq.eventfd().read().is_err());
        assert_eq!(serial.input(b"ls"), 2);
        assert_eq!(irq.eventfd().read().unwrap(), 1);
        assert_eq!(read(&mut serial, 2), 0xc4);
        assert_eq!(read(&mut serial, LSR) & DATA_READY, DATA_READY);
        assert_eq!([DATA; 2].map(|data| read(&mut serial, data)), *b"ls");
        assert_eq!(read(&mut serial, LSR) & DATA_READY, 0);
        assert!(!has_room(&serial), "nobody waits for room");
    }

    #[test]
    fn input_before_the_guest_listens_waits() {
        let (mut serial, _, _) = serial();
        assert_eq!(serial.input(b"ls"), 0);
        // The divisor's high byte is at the same offset.
        serial.write(LCR, &[DIVISOR_LATCH_ACCESS]);
        serial.write(IER, &[1]);
        serial.write(LCR, &[3]);
        assert_eq!(serial.input(b"ls"), 0);
        assert!(!has_room(&serial));
        serial.write(IER, &[5]);
        assert!(has_room(&serial));
        assert_eq!(serial.input(b"ls"), 2);
    }

    #[test]
    fn the_self_test_of_linux_is_not_listening() {
        let (mut serial, _, _) = serial();
        assert_eq!(serial.input(b"ls"), 0);
        serial.write(IER, &[ALL_INTERRUPTS]);
        assert_eq!(read(&mut serial, IER), ALL_INTERRUPTS);
        assert_eq!(serial.input(b"ls"), 0);
        serial.write(IER, &[0]);
        assert!(!has_room(&serial));
        serial.write(IER, &[ALL_INTERRUPTS]);
        read(&mut serial, 2);
        assert!(has_room(&serial));
        assert_eq!(serial.input(b"ls"), 2);
    }

    #[test]
    fn a_guest_that_polls_listens() {
        let (mut serial, irq, _) = serial();
        assert_eq!(serial.input(b"ls"), 0);
        for _ in 0..3 {
            for _ in 1..POLLS_WHEN_WAITING {
                read(&mut serial, LSR);
            }
            serial.write(DATA, b".");
        }
        assert!(!has_room(&serial));
        for _ in 0..POLLS_WHEN_WAITING {
            read(&mut serial, LSR);
        }
        assert!(has_room(&serial));
        assert_eq!(serial.input(b"ls"), 2);
        assert_eq!(read(&mut serial, DATA), b'l');
        assert!(irq.eventfd().read().is_err());
    }

    #[test]
    fn takes_a_fifo_of_input_at_a_time() {
        let (mut serial, _, _) = serial();
        serial.write(IER, &[RECEIVED]);
        assert_eq!(serial.input(&[b'x'; 100]), 64);
        assert_eq!(serial.input(&[b'x'; 36]), 0);
        for _ in 0..63 {
            read(&mut serial, DATA);
        }
        assert!(!has_room(&serial));
        read(&mut serial, DATA);
        assert!(has_room(&serial));
        assert_eq!(serial.input(&[b'x'; 36]), 36);
    }

    #[test]
    fn loopback_returns_what_is_sent_and_takes_no_input() {
        let (mut serial, _, line) = serial();
        serial.write(IER, &[RECEIVED]);
        serial.write(MCR, &[LOOPBACK]);
        serial.write(DATA, b"x");
        assert_eq!(serial.input(b"ls"), 0);
        assert_eq!(read(&mut serial, DATA), b'x');
        assert!(line.bytes.lock().unwrap().is_empty());
        serial.write(MCR, &[0]);
        assert!(has_room(&serial));
    }

    #[test]
    fn output_that_fails_is_dropped() {
        for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::Interrupted] {
            let line = Line { fails: Some(kind), ..Line::default() };
            let mut serial = Serial::new(IrqLine::new().unwrap(), Box::new(line)).unwrap();
            for _ in 0..3 {
                serial.write(DATA, b"x");
            }
            assert_eq!(read(&mut serial, LSR), 0x60);
        }
    }
}
