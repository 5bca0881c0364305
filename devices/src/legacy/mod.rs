//! The PC's own devices: one file each. They have byte-wide registers unless their file says otherwise.
//!
//! An access wider than a byte to a byte-wide register is one access to the addressed register with the first byte; it
//! reads ones behind that. (A PC's chipset would split it into one access for each byte. Compilers and drivers do not
//! make such accesses, and splitting lets a single exit touch registers that the guest did not name.)

pub mod acpi_pm;
pub mod cmos;
pub mod debug_exit;
pub mod i8042;
pub mod ioapic;
pub mod port61;
pub mod pvpanic;
pub mod reset;
pub mod serial;
pub mod vga;

pub use acpi_pm::AcpiPm;
pub use cmos::Cmos;
pub use debug_exit::DebugExit;
pub use i8042::I8042;
pub use ioapic::{IoApic, Msi, MsiRouter};
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
