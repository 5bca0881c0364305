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
mod registers;
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
