//! ACPI power management registers of a PC: the fixed hardware that Linux expects of one that is not hardware-reduced.
//!
//! Source: ACPI 6.5, section 4.8.3. Multi-byte registers, any width, little endian.
//!
//! | offset | port | register |
//! | --- | --- | --- |
//! | 0 | 0x600 | `PM1a` status, 16 bits: reads 0 (no fixed event ever happens, so no SCI is raised) |
//! | 2 | 0x602 | `PM1a` enable, 16 bits: reads back what was written |
//! | 4 | 0x604 | `PM1a` control, 16 bits |
//! | 8 | 0x608 | power management timer, 32 bits, read only |
//!
//! Control: bit 0 (`SCI_EN`) always reads 1, as the machine starts in ACPI mode; bits 10-12 (`SLP_TYP`) read back; writing
//! bit 13 (`SLP_EN`), which reads 0, enters the sleep state: with `SLP_TYP` 0 that is S5, power-off. No other sleep state
//! is offered, so any other `SLP_TYP` is ignored.

use crate::bus::BusDevice;
use crate::event::{EventSink, GuestEvent};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ENABLE: usize = 2;
const CONTROL: usize = 4;
const TIMER: usize = 8;

const SCI_EN: u16 = 1 << 0;
const SLP_TYP: u16 = 7 << 10;
const SLP_EN: u16 = 1 << 13;
/// The control bits that a guest reads back as it wrote them: `SLP_TYP` and `BM_RLD` (bit 1).
const CONTROL_STORED: u16 = SLP_TYP | 1 << 1;

/// Frequency of the timer in Hz (ACPI 6.5, section 4.8.2.1).
const TIMER_HZ: u128 = 3_579_545;

/// `PM1a` event block, `PM1a` control block and timer.
pub struct AcpiPm {
    enable: u16,
    control: u16,
    start: Instant,
    events: Arc<dyn EventSink>,
}

impl AcpiPm {
    /// Length of the block in bytes.
    pub const LEN: u64 = 12;

    /// A block whose timer starts at 0 now, and that reports power-off to `events`.
    pub fn new(events: Arc<dyn EventSink>) -> Self {
        Self { enable: 0, control: SCI_EN, start: Instant::now(), events }
    }

    fn image(&self) -> [u8; Self::LEN as usize] {
        let mut image = [0; Self::LEN as usize];
        image[ENABLE..ENABLE + 2].copy_from_slice(&self.enable.to_le_bytes());
        image[CONTROL..CONTROL + 2].copy_from_slice(&self.control.to_le_bytes());
        image[TIMER..].copy_from_slice(&ticks(self.start.elapsed()).to_le_bytes());
        image
    }

    fn write_control(&mut self, value: u16) {
        self.control = value & CONTROL_STORED | SCI_EN;
        if value & (SLP_EN | SLP_TYP) == SLP_EN {
            self.events.event(GuestEvent::PowerOff);
        }
    }
}

impl BusDevice for AcpiPm {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let image = self.image();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let shown = image.get(offset..).unwrap_or(&[]);
        let len = shown.len().min(data.len());
        data[..len].copy_from_slice(&shown[..len]);
        data[len..].fill(0xff);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut image = self.image();
        let (mut writes_enable, mut writes_control) = (false, false);
        for (at, &byte) in data.iter().enumerate() {
            let at = offset.saturating_add(at);
            writes_enable |= at / 2 == ENABLE / 2;
            writes_control |= at / 2 == CONTROL / 2;
            if let Some(register) = image.get_mut(at) {
                *register = byte;
            }
        }
        let word = |at| u16::from_le_bytes([image[at], image[at + 1]]);
        if writes_enable {
            self.enable = word(ENABLE);
        }
        if writes_control {
            self.write_control(word(CONTROL));
        }
    }
}

/// The timer's value after `elapsed`; it wraps around after 20 minutes.
fn ticks(elapsed: Duration) -> u32 {
    (elapsed.as_nanos() * TIMER_HZ / 1_000_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::Recorder;

    fn read<const N: usize>(pm: &mut AcpiPm, offset: u64) -> [u8; N] {
        let mut data = [0x55; N];
        pm.read(offset, &mut data);
        data
    }

    #[test]
    fn sleep_type_zero_powers_off_at_any_width() {
        let writes: [(u64, &[u8]); 4] =
            [(4, &[0x00, 0x20]), (4, &[0x01, 0x20, 0, 0]), (5, &[0x20]), (2, &[0, 0, 0, 0x20])];
        for (offset, data) in writes {
            let events = Recorder::new();
            let mut pm = AcpiPm::new(events.clone());
            pm.write(offset, data);
            assert_eq!(events.take(), [GuestEvent::PowerOff], "{offset} {data:?}");
        }
    }

    #[test]
    fn other_sleep_types_and_registers_do_not_power_off() {
        let events = Recorder::new();
        let mut pm = AcpiPm::new(events.clone());
        pm.write(4, &[0x00, 0x34]);
        pm.write(4, &[0x00, 0x00]);
        pm.write(0, &[0xff; 4]);
        pm.write(6, &[0xff; 6]);
        pm.write(u64::MAX, &[0xff; 8]);
        assert_eq!(events.take(), []);
    }

    #[test]
    fn control_shows_acpi_mode_and_the_sleep_type() {
        let mut pm = AcpiPm::new(Recorder::new());
        assert_eq!(read(&mut pm, 4), [1, 0]);
        pm.write(4, &[0x00, 0x34]);
        assert_eq!(read(&mut pm, 4), [1, 0x14]);
    }

    #[test]
    fn enable_reads_back_and_status_is_clear() {
        let mut pm = AcpiPm::new(Recorder::new());
        pm.write(0, &[0xff, 0xff, 0x21, 0x01]);
        assert_eq!(read(&mut pm, 0), [0, 0, 0x21, 0x01]);
    }

    #[test]
    fn the_timer_runs_at_its_frequency_and_ignores_writes() {
        assert_eq!(ticks(Duration::from_secs(1)), 3_579_545);
        assert_eq!(ticks(Duration::from_mins(20)), 486_704);
        let mut pm = AcpiPm::new(Recorder::new());
        pm.write(8, &[0xff; 4]);
        let before = u32::from_le_bytes(read(&mut pm, 8));
        std::thread::sleep(Duration::from_millis(2));
        let after = u32::from_le_bytes(read(&mut pm, 8));
        assert!(after - before >= 7159 && after < 3_579_545 * 60);
    }
}
