//! The registers of a 16550A. Source: National Semiconductor PC16550D datasheet, section 8.
//!
//! What differs from the chip: a byte is transmitted at once, so the transmitter is always empty; the receive FIFO holds
//! 64 bytes, and any of them raises the received-data interrupt, whatever the trigger level; line errors other than an
//! overrun do not happen. No input is lost to a driver that sets the chip up: switching the FIFOs empties none, clearing the
//! receiver drops what the guest was shown, and loopback has a FIFO of its own. Its interrupt is an edge for each cause that becomes pending, since the ISA line is
//! edge-triggered. OUT2, which connects a PC's line, is not asked for: kernels forget it, and other monitors let them.

use std::collections::VecDeque;
use std::io::{self, Write};

use crate::interrupt::InterruptSink;
use crate::legacy::receiver::Receiver;

pub const DATA: u8 = 0;
pub const INTERRUPT_ENABLE: u8 = 1;
pub const IDENTIFICATION_OR_FIFO: u8 = 2;
pub const LINE_CONTROL: u8 = 3;
pub const MODEM_CONTROL: u8 = 4;
pub const LINE_STATUS: u8 = 5;
pub const MODEM_STATUS: u8 = 6;
const SCRATCH: u8 = 7;

/// Interrupt enable: received data, transmitter empty, line status, modem status.
pub const RECEIVED: u8 = 1 << 0;
pub const TRANSMITTED: u8 = 1 << 1;
pub const LINE: u8 = 1 << 2;
const MODEM: u8 = 1 << 3;
/// Every interrupt that a 16550A has.
pub const ALL_INTERRUPTS: u8 = RECEIVED | TRANSMITTED | LINE | MODEM;

/// Interrupt identification by falling priority (table II), each with its enable bit.
const PRIORITIES: [(u8, u8); 4] = [(LINE, 0b0110), (RECEIVED, RECEIVED_DATA), (TRANSMITTED, 0b0010), (MODEM, 0b0000)];
const RECEIVED_DATA: u8 = 0b0100;
const IDENTIFICATION: u8 = 0x0f;
pub const NO_INTERRUPT: u8 = 1 << 0;
const FIFOS_ENABLED: u8 = 0xc0;

pub const FIFO_ENABLE: u8 = 1 << 0;
pub const FIFO_CLEAR_RECEIVER: u8 = 1 << 1;

pub const DIVISOR_LATCH_ACCESS: u8 = 1 << 7;

const DTR: u8 = 1 << 0;
const RTS: u8 = 1 << 1;
pub const OUT1: u8 = 1 << 2;
pub const OUT2: u8 = 1 << 3;
pub const LOOPBACK: u8 = 1 << 4;
/// Bits 5 to 7 of the modem control register are always 0.
const MODEM_CONTROL_STORED: u8 = 0x1f;

pub const DATA_READY: u8 = 1 << 0;
const OVERRUN: u8 = 1 << 1;
/// Holding register and shift register, both empty.
const TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;

const CTS: u8 = 1 << 4;
const DSR: u8 = 1 << 5;
const RI: u8 = 1 << 6;
const DCD: u8 = 1 << 7;
/// Somebody is always at the other end of the line.
const CONNECTED: u8 = CTS | DSR | DCD;

/// The divisor of 9600 baud, as a PC's BIOS leaves it.
const DIVISOR_START: [u8; 2] = [12, 0];

/// The received bytes that are kept with FIFOs enabled; without, it is one.
pub const FIFO_SIZE: usize = 64;

/// A 16550A.
pub struct Uart {
    irq: Box<dyn InterruptSink>,
    output: Box<dyn Write + Send>,
    receiver: Receiver,
    /// What the chip received of itself, in loopback. It comes before what was received of the line.
    looped: VecDeque<u8>,
    divisor: [u8; 2],
    enabled: u8,
    fifos: bool,
    line_control: u8,
    modem_control: u8,
    /// A byte was transmitted, or its interrupt enabled, and the guest has not been told since.
    transmitted: bool,
    overrun: bool,
    /// The low half of the modem status register: what changed since it was read.
    modem_changes: u8,
    scratch: u8,
    /// Causes whose edge has been given, as interrupt enable bits.
    raised: u8,
}

impl Uart {
    /// A chip after reset, that interrupts by `irq` and transmits to `output`, one write and flush for each byte.
    pub fn new(irq: Box<dyn InterruptSink>, output: Box<dyn Write + Send>) -> Self {
        Self {
            irq,
            output,
            receiver: Receiver::default(),
            looped: VecDeque::new(),
            divisor: DIVISOR_START,
            enabled: 0,
            fifos: false,
            line_control: 0,
            modem_control: 0,
            transmitted: false,
            overrun: false,
            modem_changes: 0,
            scratch: 0,
            raised: 0,
        }
    }

    /// The interrupt enable register, even where the divisor latch hides it.
    pub const fn enabled(&self) -> u8 {
        self.enabled
    }

    /// Whether offsets 0 and 1 are the divisor.
    pub const fn latch(&self) -> bool {
        self.line_control & DIVISOR_LATCH_ACCESS != 0
    }

    /// Whether the chip receives what it transmits and nothing else.
    pub const fn loopback(&self) -> bool {
        self.modem_control & LOOPBACK != 0
    }

    /// How many bytes it can receive.
    pub fn room(&self) -> usize {
        self.capacity().saturating_sub(self.receiver.len())
    }

    /// Whether the guest finds a byte to read.
    pub fn has_data(&self) -> bool {
        !self.looped.is_empty() || !self.loopback() && self.receiver.has_data()
    }

    /// Receives bytes from the line; those that there is no room for are lost.
    pub fn receive(&mut self, bytes: &[u8]) {
        let taken = self.room().min(bytes.len());
        self.overrun |= taken < bytes.len();
        self.receiver.receive(&bytes[..taken]);
        self.interrupt();
    }

    /// The guest listens: it finds all that was received.
    pub fn listen(&mut self) {
        if self.receiver.bring_back() {
            self.interrupt();
        }
    }

    /// The guest, which listens, read `value` from a register: if that told it of received data, all of it counts as shown.
    pub fn told(&mut self, register: u8, value: u8) {
        let of_data = match register {
            LINE_STATUS => value & DATA_READY != 0,
            IDENTIFICATION_OR_FIFO => value & IDENTIFICATION == RECEIVED_DATA,
            _ => false,
        };
        if of_data && !self.loopback() {
            self.receiver.show();
        }
    }

    const fn capacity(&self) -> usize {
        if self.fifos { FIFO_SIZE } else { 1 }
    }

    fn read_data(&mut self) -> u8 {
        let byte = match self.looped.pop_front() {
            None if !self.loopback() => self.receiver.pop(),
            looped => looped,
        };
        byte.unwrap_or_default()
    }

    fn line_status(&mut self) -> u8 {
        let data = if self.has_data() { DATA_READY } else { 0 };
        let overrun = if std::mem::take(&mut self.overrun) { OVERRUN } else { 0 };
        TRANSMITTER_EMPTY | data | overrun
    }

    /// Reads a register, 0 to 7.
    pub fn read(&mut self, register: u8) -> u8 {
        let value = match register {
            DATA if self.latch() => self.divisor[0],
            INTERRUPT_ENABLE if self.latch() => self.divisor[1],
            DATA => self.read_data(),
            INTERRUPT_ENABLE => self.enabled,
            IDENTIFICATION_OR_FIFO => self.identify(),
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS => self.line_status(),
            MODEM_STATUS => self.modem_lines() | std::mem::take(&mut self.modem_changes),
            SCRATCH => self.scratch,
            _ => 0xff,
        };
        self.interrupt();
        value
    }

    /// Writes a register, 0 to 7. The error is the output's.
    pub fn write(&mut self, register: u8, value: u8) -> io::Result<()> {
        let mut result = Ok(());
        match register {
            DATA if self.latch() => self.divisor[0] = value,
            INTERRUPT_ENABLE if self.latch() => self.divisor[1] = value,
            DATA => result = self.transmit(value),
            INTERRUPT_ENABLE => {
                self.enabled = value & ALL_INTERRUPTS;
                // Enabling the interrupt of an empty transmitter raises it; Linux tests for chips that forget.
                self.transmitted |= self.enabled & TRANSMITTED != 0;
                self.raised &= !TRANSMITTED;
            }
            IDENTIFICATION_OR_FIFO => self.control_fifos(value),
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.control_modem(value & MODEM_CONTROL_STORED),
            SCRATCH => self.scratch = value,
            // Line and modem status are read only.
            _ => {}
        }
        self.interrupt();
        result
    }

    fn transmit(&mut self, byte: u8) -> io::Result<()> {
        self.transmitted = true;
        if self.loopback() {
            if self.looped.len() < self.capacity() {
                self.looped.push_back(byte);
            } else {
                self.overrun = true;
            }
            return Ok(());
        }
        self.output.write_all(&[byte])?;
        self.output.flush()
    }

    fn control_fifos(&mut self, value: u8) {
        let enable = value & FIFO_ENABLE != 0;
        // The chip also empties its FIFOs when they are switched on or off, after which it cannot hold what it received in
        // the other mode. But Linux enables the receive interrupt before it switches the FIFOs on, and what was typed in
        // between is no less meant for it. The other bits count only together with the first.
        self.fifos = enable;
        if enable && value & FIFO_CLEAR_RECEIVER != 0 {
            self.looped.clear();
            self.receiver.drop_shown();
            // Linux reads the data register behind that, to make sure.
            self.receiver.set_aside();
        }
    }

    fn control_modem(&mut self, value: u8) {
        let before = self.modem_lines();
        self.modem_control = value;
        let after = self.modem_lines();
        // The ring indicator counts when it ends, the other lines whenever they change.
        let changes = (before ^ after) & !RI | before & !after & RI;
        self.modem_changes |= changes >> 4;
    }

    /// The high half of the modem status register.
    const fn modem_lines(&self) -> u8 {
        if !self.loopback() {
            return CONNECTED;
        }
        let control = self.modem_control;
        (if control & RTS != 0 { CTS } else { 0 })
            | (if control & DTR != 0 { DSR } else { 0 })
            | (if control & OUT1 != 0 { RI } else { 0 })
            | (if control & OUT2 != 0 { DCD } else { 0 })
    }

    /// The interrupt identification register. Reading it takes back the transmitter's interrupt, if that is what it tells.
    fn identify(&mut self) -> u8 {
        let pending = self.pending();
        let cause = PRIORITIES.into_iter().find(|(enable, _)| pending & enable != 0);
        if matches!(cause, Some((TRANSMITTED, _))) {
            self.transmitted = false;
        }
        cause.map_or(NO_INTERRUPT, |(_, identification)| identification) | if self.fifos { FIFOS_ENABLED } else { 0 }
    }

    /// What wants to interrupt, as interrupt enable bits.
    fn pending(&self) -> u8 {
        let bit = |condition, bit| if condition { bit } else { 0 };
        self.enabled
            & (bit(self.has_data(), RECEIVED)
                | bit(self.transmitted, TRANSMITTED)
                | bit(self.overrun, LINE)
                | bit(self.modem_changes != 0, MODEM))
    }

    /// Gives the interrupt line an edge if there is a new cause.
    fn interrupt(&mut self) {
        let pending = self.pending();
        if pending & !self.raised != 0
            && let Err(error) = self.irq.trigger()
        {
            log::debug!("Serial interrupt: {error}");
        }
        self.raised = pending;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::IrqLine;

    fn uart() -> (Uart, IrqLine) {
        let irq = IrqLine::new().unwrap();
        (Uart::new(Box::new(irq.clone()), Box::new(io::sink())), irq)
    }

    /// The edges since the last call.
    fn edges(irq: &IrqLine) -> u64 {
        irq.eventfd().read().unwrap_or(0)
    }

    #[test]
    fn reset_values_are_the_chips() {
        let (mut uart, irq) = uart();
        let registers: Vec<u8> = (0..8).map(|register| uart.read(register)).collect();
        assert_eq!(registers, [0, 0, 0x01, 0, 0, 0x60, 0xb0, 0]);
        assert_eq!(edges(&irq), 0);
    }

    #[test]
    fn the_divisor_is_behind_the_latch_only() {
        let (mut uart, _) = uart();
        uart.write(LINE_CONTROL, 0x83).unwrap();
        uart.write(DATA, 0x34).unwrap();
        uart.write(INTERRUPT_ENABLE, 0x12).unwrap();
        assert_eq!([uart.read(DATA), uart.read(INTERRUPT_ENABLE), uart.enabled()], [0x34, 0x12, 0]);
        uart.write(LINE_CONTROL, 0x03).unwrap();
        assert_eq!([uart.read(DATA), uart.read(INTERRUPT_ENABLE), uart.read(LINE_CONTROL)], [0, 0, 0x03]);
    }

    #[test]
    fn causes_are_told_by_priority_and_taken_back_one_by_one() {
        let (mut uart, irq) = uart();
        uart.write(MODEM_CONTROL, LOOPBACK).unwrap();
        uart.write(INTERRUPT_ENABLE, ALL_INTERRUPTS).unwrap();
        // Two bytes where one has room: an overrun.
        uart.write(DATA, b'a').unwrap();
        uart.write(DATA, b'b').unwrap();
        assert_eq!(uart.read(IDENTIFICATION_OR_FIFO), 0b0110);
        assert_eq!(uart.read(LINE_STATUS), 0x63);
        assert_eq!(uart.read(IDENTIFICATION_OR_FIFO), 0b0100);
        assert_eq!(uart.read(DATA), b'a');
        assert_eq!(uart.read(IDENTIFICATION_OR_FIFO), 0b0010);
        // Loopback disconnected CTS, DSR and DCD.
        assert_eq!(uart.read(IDENTIFICATION_OR_FIFO), 0b0000);
        assert_eq!(uart.read(MODEM_STATUS), 0x0b);
        assert_eq!(uart.read(IDENTIFICATION_OR_FIFO), NO_INTERRUPT);
        assert!(edges(&irq) >= 3);
    }

    #[test]
    fn each_byte_that_finds_an_empty_receiver_interrupts() {
        let (mut uart, irq) = uart();
        uart.write(INTERRUPT_ENABLE, RECEIVED).unwrap();
        for byte in [b'a', b'b'] {
            assert_eq!(uart.room(), 1);
            uart.receive(&[byte]);
            assert_eq!((edges(&irq), uart.room()), (1, 0));
            // Identifying it does not take it back: the byte is still there.
            assert_eq!([uart.read(IDENTIFICATION_OR_FIFO), uart.read(IDENTIFICATION_OR_FIFO)], [4, 4]);
            assert_eq!(uart.read(DATA), byte);
        }
    }

    #[test]
    fn data_that_waits_interrupts_when_that_is_enabled() {
        let (mut uart, irq) = uart();
        uart.receive(b"a");
        assert_eq!(edges(&irq), 0);
        uart.write(INTERRUPT_ENABLE, RECEIVED).unwrap();
        assert_eq!(edges(&irq), 1);
        uart.write(INTERRUPT_ENABLE, 0).unwrap();
        uart.write(INTERRUPT_ENABLE, RECEIVED).unwrap();
        assert_eq!(edges(&irq), 1);
    }

    #[test]
    fn the_transmitter_interrupts_once_for_what_is_sent_until_the_guest_is_told() {
        let (mut uart, irq) = uart();
        uart.write(INTERRUPT_ENABLE, TRANSMITTED).unwrap();
        assert_eq!(edges(&irq), 1);
        for _ in 0..16 {
            uart.write(DATA, b'x').unwrap();
        }
        assert_eq!(edges(&irq), 0);
        assert_eq!([uart.read(IDENTIFICATION_OR_FIFO), uart.read(IDENTIFICATION_OR_FIFO)], [2, 1]);
        uart.write(DATA, b'x').unwrap();
        assert_eq!(edges(&irq), 1);
        uart.write(INTERRUPT_ENABLE, TRANSMITTED).unwrap();
        assert_eq!(edges(&irq), 1, "enabling it again tells again");
    }

    #[test]
    fn fifos_are_enabled_and_disabled_without_loss() {
        let (mut uart, _) = uart();
        uart.receive(b"a");
        uart.write(IDENTIFICATION_OR_FIFO, FIFO_ENABLE).unwrap();
        assert_eq!((uart.room(), uart.read(IDENTIFICATION_OR_FIFO)), (FIFO_SIZE - 1, 0xc1));
        uart.receive(&[b'x'; FIFO_SIZE]);
        assert_eq!((uart.room(), uart.read(LINE_STATUS)), (0, 0x63));
        uart.write(IDENTIFICATION_OR_FIFO, FIFO_CLEAR_RECEIVER).unwrap();
        assert_eq!((uart.room(), uart.read(IDENTIFICATION_OR_FIFO)), (0, 0x01));
        let received: Vec<_> = (0..FIFO_SIZE).map(|_| uart.read(DATA)).collect();
        assert_eq!((received[0], &received[1..]), (b'a', &[b'x'; FIFO_SIZE - 1][..]));
        assert_eq!(uart.room(), 1);
    }

    #[test]
    fn clearing_the_receiver_drops_what_the_guest_was_shown() {
        for told_by in [LINE_STATUS, IDENTIFICATION_OR_FIFO] {
            let (mut uart, irq) = uart();
            uart.write(IDENTIFICATION_OR_FIFO, FIFO_ENABLE).unwrap();
            uart.write(INTERRUPT_ENABLE, RECEIVED).unwrap();
            uart.receive(b"abc");
            let value = uart.read(told_by);
            uart.told(told_by, value);
            assert_eq!(uart.read(DATA), b'a');
            uart.receive(b"de");
            assert_eq!(edges(&irq), 1);
            uart.write(IDENTIFICATION_OR_FIFO, FIFO_ENABLE | FIFO_CLEAR_RECEIVER).unwrap();
            // What came since is set aside until the guest listens, which is then told.
            assert_eq!(
                [LINE_STATUS, DATA, IDENTIFICATION_OR_FIFO].map(|register| uart.read(register)),
                [0x60, 0, 0xc1]
            );
            uart.listen();
            assert_eq!((edges(&irq), uart.read(LINE_STATUS)), (1, 0x61));
            assert_eq!([uart.read(DATA), uart.read(DATA), uart.read(LINE_STATUS)], [b'd', b'e', 0x60]);
        }
    }

    #[test]
    fn input_is_neither_read_nor_cleared_in_loopback() {
        let (mut uart, _) = uart();
        uart.write(IDENTIFICATION_OR_FIFO, FIFO_ENABLE).unwrap();
        uart.receive(b"in");
        uart.write(MODEM_CONTROL, LOOPBACK).unwrap();
        assert_eq!([uart.read(LINE_STATUS), uart.read(DATA)], [0x60, 0]);
        uart.write(DATA, b'x').unwrap();
        uart.write(DATA, b'y').unwrap();
        assert_eq!([uart.read(LINE_STATUS), uart.read(DATA)], [0x61, b'x']);
        uart.write(MODEM_CONTROL, 0).unwrap();
        assert_eq!([DATA; 4].map(|data| uart.read(data)), *b"yin\0");
    }

    #[test]
    fn loopback_ties_the_modem_lines_as_linux_tests() {
        let (mut uart, _) = uart();
        uart.write(MODEM_CONTROL, LOOPBACK | OUT2 | RTS).unwrap();
        assert_eq!(uart.read(MODEM_STATUS) & 0xf0, DCD | CTS);
        uart.write(MODEM_CONTROL, LOOPBACK | OUT1 | DTR).unwrap();
        assert_eq!(uart.read(MODEM_STATUS), RI | DSR | (DCD | CTS | DSR) >> 4);
        uart.write(MODEM_CONTROL, !OUT1).unwrap();
        assert_eq!(uart.read(MODEM_STATUS) & RI >> 4, RI >> 4, "the end of a ring");
        assert_eq!(uart.read(MODEM_CONTROL), 0x1b);
    }
}
