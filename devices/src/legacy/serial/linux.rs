//! Linux's driver against the port: a byte that is offered between any two of its register accesses is received.
//!
//! The order of accesses is that of drivers/tty/serial/8250/8250_port.c of Linux 6.12, for a 16550A on x86.

use super::Serial;
use super::uart::{
    ALL_INTERRUPTS, DATA, DATA_READY, DIVISOR_LATCH_ACCESS, FIFO_CLEAR_RECEIVER, FIFO_ENABLE, IDENTIFICATION_OR_FIFO,
    INTERRUPT_ENABLE, LINE, LINE_CONTROL, LINE_STATUS, LOOPBACK, MODEM_CONTROL, MODEM_STATUS, NO_INTERRUPT, OUT1, OUT2,
    RECEIVED, TRANSMITTED,
};
use crate::bus::BusDevice as _;
use crate::console::ConsolePort as _;
use crate::interrupt::IrqLine;
use std::io;

const FIFO_CLEAR_BOTH: u8 = FIFO_CLEAR_RECEIVER | 1 << 2;
const FIFO_TRIGGER_8: u8 = FIFO_ENABLE | 1 << 7;
const EIGHT_BITS: u8 = 3;
/// What the modem control register is while a port is open: DTR, RTS and OUT2.
const OPEN: u8 = 0x0b;

/// The driver, its port, and a monitor with input for it.
struct Linux {
    serial: Serial,
    accesses: usize,
    /// A byte is offered before access `offered_at`, or before each.
    offered_at: Option<usize>,
    offered: Vec<u8>,
    /// What the port has not taken yet.
    pending: Vec<u8>,
    received: Vec<u8>,
}

impl Linux {
    fn new(offered_at: Option<usize>) -> Self {
        let serial = Serial::new(IrqLine::new().unwrap(), Box::new(io::sink())).unwrap();
        Self { serial, accesses: 0, offered_at, offered: Vec::new(), pending: Vec::new(), received: Vec::new() }
    }

    /// What happens between two accesses.
    fn gap(&mut self) {
        let here = self.offered_at.is_none_or(|at| at == self.accesses);
        if here {
            let byte = self.accesses as u8;
            self.offered.push(byte);
            self.pending.push(byte);
        }
        if self.serial.room().read().is_ok() || here {
            let taken = self.serial.input(&self.pending);
            self.pending.drain(..taken);
        }
        self.accesses += 1;
    }

    fn read(&mut self, register: u8) -> u8 {
        self.gap();
        let mut data = [0; 1];
        self.serial.read(register.into(), &mut data);
        data[0]
    }

    fn write(&mut self, register: u8, value: u8) {
        self.gap();
        self.serial.write(register.into(), &[value]);
    }

    fn clear_fifos(&mut self) {
        for control in [FIFO_ENABLE, FIFO_ENABLE | FIFO_CLEAR_BOTH, 0] {
            self.write(IDENTIFICATION_OR_FIFO, control);
        }
    }

    fn clear_interrupt_registers(&mut self) {
        for register in [LINE_STATUS, DATA, IDENTIFICATION_OR_FIFO, MODEM_STATUS] {
            self.read(register);
        }
    }

    /// `autoconfig`, with the tests of `CONFIG_SERIAL_8250_16550A_VARIANTS`.
    fn autoconfig(&mut self) {
        let enabled = self.read(INTERRUPT_ENABLE);
        for interrupts in [0, ALL_INTERRUPTS] {
            self.write(INTERRUPT_ENABLE, interrupts);
            assert_eq!(self.read(INTERRUPT_ENABLE), interrupts);
        }
        self.write(INTERRUPT_ENABLE, enabled);
        let modem = self.read(MODEM_CONTROL);
        let line = self.read(LINE_CONTROL);
        self.write(LINE_CONTROL, 0xbf);
        self.write(IDENTIFICATION_OR_FIFO, 0);
        self.write(LINE_CONTROL, 0);
        self.write(IDENTIFICATION_OR_FIFO, FIFO_ENABLE);
        assert_eq!(self.read(IDENTIFICATION_OR_FIFO) & 0xc0, 0xc0);
        self.tell_variants_apart();
        self.write(LINE_CONTROL, line);
        self.write(MODEM_CONTROL, modem);
        self.clear_fifos();
        self.read(DATA);
        self.write(INTERRUPT_ENABLE, 0);
    }

    fn tell_variants_apart(&mut self) {
        for line in [DIVISOR_LATCH_ACCESS, 0xbf] {
            self.write(LINE_CONTROL, line);
            self.read(IDENTIFICATION_OR_FIFO);
        }
        self.write(LINE_CONTROL, 0);
        let modem = self.read(MODEM_CONTROL);
        self.write(MODEM_CONTROL, modem ^ LOOPBACK);
        self.write(MODEM_CONTROL, modem);
        for line in [0, DIVISOR_LATCH_ACCESS] {
            self.write(LINE_CONTROL, line);
            self.write(IDENTIFICATION_OR_FIFO, FIFO_ENABLE | 1 << 5);
            self.read(IDENTIFICATION_OR_FIFO);
            self.write(IDENTIFICATION_OR_FIFO, FIFO_ENABLE);
        }
        self.write(LINE_CONTROL, 0);
        assert_eq!(self.size_fifo(), 64);
    }

    /// `size_fifo`: how many bytes the FIFO holds, by loopback.
    fn size_fifo(&mut self) -> usize {
        let line = self.read(LINE_CONTROL);
        self.write(LINE_CONTROL, 0);
        let fifo = self.read(IDENTIFICATION_OR_FIFO);
        let modem = self.read(MODEM_CONTROL);
        self.write(IDENTIFICATION_OR_FIFO, FIFO_ENABLE | FIFO_CLEAR_BOTH);
        self.write(MODEM_CONTROL, LOOPBACK);
        self.write(LINE_CONTROL, EIGHT_BITS);
        (0..=255).for_each(|byte| self.write(DATA, byte));
        let mut count = 0;
        while count < 256 && self.read(LINE_STATUS) & DATA_READY != 0 {
            self.read(DATA);
            count += 1;
        }
        self.write(IDENTIFICATION_OR_FIFO, fifo);
        self.write(MODEM_CONTROL, modem);
        self.write(LINE_CONTROL, line);
        count
    }

    /// `autoconfig_irq`, where the kernel looks for the port's interrupt (`CONFIG_SERIAL_8250_DETECT_IRQ`).
    fn autoconfig_irq(&mut self) {
        let modem = self.read(MODEM_CONTROL);
        let enabled = self.read(INTERRUPT_ENABLE);
        for control in [OUT1 | OUT2, 0, OPEN] {
            self.write(MODEM_CONTROL, control);
        }
        self.write(INTERRUPT_ENABLE, ALL_INTERRUPTS);
        self.clear_interrupt_registers();
        self.write(DATA, 0xff);
        self.write(MODEM_CONTROL, modem);
        self.write(INTERRUPT_ENABLE, enabled);
    }

    /// `serial8250_do_startup`.
    fn startup(&mut self) {
        self.clear_fifos();
        self.clear_interrupt_registers();
        self.read(LINE_STATUS);
        self.read(LINE_STATUS);
        for _ in 0..2 {
            self.write(INTERRUPT_ENABLE, TRANSMITTED);
            self.read(IDENTIFICATION_OR_FIFO);
            self.write(INTERRUPT_ENABLE, 0);
        }
        self.write(LINE_CONTROL, EIGHT_BITS);
        self.write(MODEM_CONTROL, OUT2);
        self.write(INTERRUPT_ENABLE, TRANSMITTED);
        self.read(LINE_STATUS);
        self.read(IDENTIFICATION_OR_FIFO);
        self.write(INTERRUPT_ENABLE, 0);
        self.clear_interrupt_registers();
    }

    /// `serial8250_do_set_termios`.
    fn set_termios(&mut self) {
        self.write(INTERRUPT_ENABLE, RECEIVED | LINE);
        self.write(LINE_CONTROL, EIGHT_BITS | DIVISOR_LATCH_ACCESS);
        self.write(DATA, 1);
        self.write(INTERRUPT_ENABLE, 0);
        self.write(LINE_CONTROL, EIGHT_BITS);
        self.write(IDENTIFICATION_OR_FIFO, FIFO_ENABLE);
        self.write(IDENTIFICATION_OR_FIFO, FIFO_TRIGGER_8);
        self.write(MODEM_CONTROL, OPEN);
    }

    /// `do_set_rxtrig`: a user sets the trigger level of an open port.
    fn set_trigger(&mut self) {
        self.clear_fifos();
        self.write(IDENTIFICATION_OR_FIFO, FIFO_TRIGGER_8);
    }

    /// `serial8250_do_shutdown`.
    fn shutdown(&mut self) {
        self.write(INTERRUPT_ENABLE, 0);
        self.write(MODEM_CONTROL, OPEN & !OUT2);
        let line = self.read(LINE_CONTROL);
        self.write(LINE_CONTROL, line);
        self.clear_fifos();
        self.read(DATA);
    }

    /// `serial8250_console_write` of two bytes, with the port's lock held.
    fn print(&mut self) {
        let enabled = self.read(INTERRUPT_ENABLE);
        self.write(INTERRUPT_ENABLE, 0);
        for byte in [b'\r', b'\n'] {
            self.read(LINE_STATUS);
            self.write(DATA, byte);
        }
        self.read(LINE_STATUS);
        self.write(INTERRUPT_ENABLE, enabled);
    }

    /// `serial8250_handle_irq`, until there is no interrupt, or there have been enough.
    fn interrupt(&mut self) {
        for _ in 0..16 {
            if self.read(IDENTIFICATION_OR_FIFO) & NO_INTERRUPT != 0 {
                return;
            }
            for _ in 0..256 {
                if self.read(LINE_STATUS) & DATA_READY == 0 {
                    break;
                }
                let byte = self.read(DATA);
                self.received.push(byte);
            }
            self.read(MODEM_STATUS);
        }
    }

    fn boot(&mut self) {
        self.print();
        self.autoconfig();
        self.autoconfig_irq();
        self.print();
        self.startup();
        self.set_termios();
        self.print();
    }

    /// A boot, a getty that opens the port again, and a module that is loaded again.
    fn life(&mut self) {
        self.boot();
        self.interrupt();
        self.set_trigger();
        self.set_termios();
        self.interrupt();
        self.shutdown();
        self.startup();
        self.set_termios();
        self.interrupt();
        self.shutdown();
        self.boot();
        self.drain();
    }

    /// No byte comes any more, and interrupts are served until all have arrived.
    fn drain(&mut self) {
        self.offered_at = Some(usize::MAX);
        while self.received.len() < self.offered.len() {
            let before = self.received.len();
            self.interrupt();
            assert!(self.received.len() > before, "{before} of {} bytes arrived", self.offered.len());
        }
    }
}

#[test]
fn no_byte_is_lost_between_two_accesses_of_linux() {
    let mut quiet = Linux::new(Some(usize::MAX));
    quiet.life();
    assert!(quiet.received.is_empty());
    for access in 0..quiet.accesses {
        let mut linux = Linux::new(Some(access));
        linux.life();
        assert_eq!(linux.received, linux.offered, "before access {access}");
    }
}

#[test]
fn bytes_between_all_accesses_of_linux_arrive_in_order() {
    let mut linux = Linux::new(None);
    linux.boot();
    linux.drain();
    assert!(linux.offered.len() > 500);
    assert_eq!(linux.received, linux.offered);
}
