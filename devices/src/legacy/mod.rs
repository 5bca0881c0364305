//! The devices that machines come with, of PCs and of Arm boards: one file each. They have byte-wide registers unless their
//! file says otherwise.
//!
//! An access wider than a byte to a byte-wide register is one access to the addressed register with the first byte; it
//! reads ones behind that. (A PC's chipset would split it into one access for each byte. Compilers and drivers do not
//! make such accesses, and splitting lets a single exit touch registers that the guest did not name.)

pub mod acpi_pm;
pub mod cfi_flash;
pub mod cmos;
pub mod debug_console;
pub mod debug_exit;
pub mod fw_cfg;
pub mod host_bridge;
pub mod i8042;
pub mod ioapic;
pub mod pl011;
pub mod pl031;
pub mod pl061;
pub mod port61;
pub mod pvpanic;
mod receiver;
pub mod reset;
pub mod serial;
pub mod vga;

pub use acpi_pm::AcpiPm;
pub use cfi_flash::{CfiFlash, FlashArray};
pub use cmos::Cmos;
pub use debug_console::DebugConsole;
pub use debug_exit::DebugExit;
pub use fw_cfg::{FwCfg, FwFile, FwKernel};
pub use host_bridge::HostBridge;
pub use i8042::I8042;
pub use ioapic::{IoApic, Msi, MsiRouter};
pub use pl011::Pl011;
pub use pl031::Pl031;
pub use pl061::Pl061;
pub use port61::Port61;
pub use pvpanic::PvPanic;
pub use reset::ResetControl;
pub use serial::Serial;
pub use vga::Vga;

/// Answers a read of a byte-wide register: its value, then ones. `register` is not read when the guest reads nothing.
fn answer_byte(data: &mut [u8], register: impl FnOnce() -> u8) {
    if let Some((first, rest)) = data.split_first_mut() {
        *first = register();
        rest.fill(0xff);
    }
}

/// Answers a read of a 32-bit register, little endian, then zeros.
fn answer_word(data: &mut [u8], value: u32) {
    data.fill(0);
    data.iter_mut().zip(value.to_le_bytes()).for_each(|(byte, value)| *byte = value);
}

/// What a write gives a 32-bit register: its first four bytes, little endian; a narrower one leaves zeros above.
fn word(data: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes.iter_mut().zip(data).for_each(|(byte, value)| *byte = *value);
    u32::from_le_bytes(bytes)
}

/// The identification of an Arm PrimeCell, a byte in each of the registers from 0xFE0 to 0xFFC: `PeriphID0` to 3, then
/// `PCellID0` to 3, which are the same in all of them.
const fn primecell_id(offset: u64, periph: [u8; 4]) -> u32 {
    let id = [periph[0], periph[1], periph[2], periph[3], 0x0D, 0xF0, 0x05, 0xB1];
    id[(offset >> 2 & 7) as usize] as u32
}
