//! The devices of a PC: where each is, and how ACPI describes it.
//!
//! Addresses and interrupts are those that kernels and firmware expect without being told.

use std::ops::Range;

use crate::device::{At, DeviceKind, DeviceRow, Place, Presence};
use crate::map::RowName;

/// The devices that a PC can come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcDevice {
    /// A serial port, a 16550A.
    Serial,
    /// The keyboard controller, for its reset line.
    I8042,
    /// System control port B, where KVM has no PIT that would serve it.
    Port61,
    /// A VGA adapter's registers.
    Vga,
    /// The real-time clock and its memory.
    Cmos,
    /// ACPI's fixed power management registers.
    AcpiPm,
    /// The reset control register.
    Reset,
    /// QEMU's isa-debug-exit.
    DebugExit,
    /// The panic notification device.
    PvPanic,
    /// A PCI host bridge, with the reset control register among its ports.
    HostBridge,
    /// What firmware says of itself.
    DebugConsole,
    /// What firmware is told of the machine.
    FwCfg,
    /// The IOAPIC of a split interrupt controller.
    IoApic,
}

/// COM1 to COM4, eight registers each (IBM PC AT Technical Reference; COM3 and COM4 by convention).
const COM_PORTS: [u16; 4] = [0x3F8, 0x2F8, 0x3E8, 0x2E8];
const COM1: Range<u16> = COM_PORTS[0]..COM_PORTS[0] + 8;
/// COM1's line since the PC AT, which COM3 shares.
const COM1_IRQ: u32 = 4;
/// Data at 0x60, command and status at 0x64 (PC AT); port 0x61 between them is not the controller's.
const I8042_PORTS: Range<u16> = 0x60..0x65;
/// System control port B (PC AT): timer 2's gate and output, which kernels calibrate by.
const PORT61: Range<u16> = 0x61..0x62;
/// Index and data of the real-time clock's memory (PC AT, MC146818).
const CMOS_PORTS: Range<u16> = 0x70..0x72;
/// The clock's line on the PC AT's second PIC.
const CMOS_IRQ: u32 = 8;
/// From the monochrome adapter's first register to the colour adapter's last (IBM VGA).
const VGA_PORTS: Range<u16> = 0x3B0..0x3E0;
/// QEMU's isa-debug-exit with its default size of 4, where test suites put it (`iobase=0xf4`).
const DEBUG_EXIT_PORTS: Range<u16> = 0xF4..0xF8;
/// QEMU's default (docs/specs/pvpanic in QEMU).
const PVPANIC_PORTS: Range<u16> = 0x505..0x506;
/// `PM1a_EVT` with its status and enable registers, `PM1a_CNT` and the power management timer, 4 bytes each (ACPI 6.3, section
/// 4.8.3). The ports are those of QEMU's `pc` machine, whose power-off port, 0x604, small kernels know by heart.
pub const ACPI_PM_PORTS: Range<u16> = 0x600..0x60C;
/// The system control interrupt: IRQ 9, as on every PC; level-triggered and active high.
pub const SCI_IRQ: u8 = 9;
/// QEMU's isa-debugcon, where SeaBIOS writes to (`DebugOutputPort`).
const DEBUG_CONSOLE_PORTS: Range<u16> = 0x402..0x403;
/// Selector and data of QEMU's firmware configuration device (docs/specs/fw_cfg in QEMU).
const FW_CFG_PORTS: Range<u16> = 0x510..0x512;
/// PCI configuration mechanism 1: address, then data, 4 bytes each (PCI Local Bus Specification 3.0, section 3.2.2.3.2).
const HOST_BRIDGE_PORTS: Range<u16> = 0xCF8..0xD00;
/// Reset control register of Intel's chipsets (PIIX3 and later), which lies in the second byte of PCI's address register.
pub const RESET_PORT: u16 = 0xCF9;

/// The devices of a PC.
pub static PC: [DeviceRow; 13] = [
    row(PcDevice::Serial, "serial", COM1).irq(COM1_IRQ),
    row(PcDevice::I8042, "i8042", I8042_PORTS),
    row(PcDevice::Cmos, "rtc", CMOS_PORTS).irq(CMOS_IRQ),
    row(PcDevice::Vga, "vga", VGA_PORTS),
    row(PcDevice::DebugExit, "debug-exit", DEBUG_EXIT_PORTS),
    row(PcDevice::PvPanic, "pvpanic", PVPANIC_PORTS),
    row(PcDevice::AcpiPm, "acpi-pm", ACPI_PM_PORTS).irq(SCI_IRQ as u32),
    row(PcDevice::DebugConsole, "debug-console", DEBUG_CONSOLE_PORTS).when(Presence::WithFirmware),
    row(PcDevice::FwCfg, "fw-cfg", FW_CFG_PORTS).when(Presence::WithFirmware),
    row(PcDevice::HostBridge, "host-bridge", HOST_BRIDGE_PORTS).when(Presence::WithFirmware),
    row(PcDevice::Reset, "reset", RESET_PORT..RESET_PORT + 1).when(Presence::WithoutFirmware),
    row(PcDevice::Port61, "port61", PORT61).when(Presence::SplitIrqchip),
    DeviceRow::new(DeviceKind::Pc(PcDevice::IoApic), "ioapic", At::Claim(RowName::IoApic)).when(Presence::SplitIrqchip),
];

const fn row(device: PcDevice, name: &'static str, ports: Range<u16>) -> DeviceRow {
    DeviceRow::new(DeviceKind::Pc(device), name, At::Ports(ports))
}

/// How the DSDT describes a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DsdtEntry {
    /// Its name, four characters.
    pub name: String,
    /// What drivers know it by.
    pub id: HardwareId,
    /// Its number among devices of its kind, where there may be several.
    pub number: Option<usize>,
    /// It says that it is present.
    pub has_status: bool,
    /// Other devices may have the same interrupt.
    pub shares_irq: bool,
}

/// What drivers know a device by, its `_HID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HardwareId {
    /// Plug and Play's, by EISA's rules.
    Eisa(&'static str),
    /// A text.
    Text(&'static str),
}

/// A serial port that is none of COM1 to COM4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPort;

impl PcDevice {
    /// How the DSDT describes the device at `place`; not at all, if it is found without.
    pub fn dsdt(self, place: &Place) -> Result<Option<DsdtEntry>, UnknownPort> {
        let entry = |name: &str, id| DsdtEntry {
            name: name.to_owned(),
            id,
            number: None,
            has_status: false,
            shares_irq: false,
        };
        Ok(match self {
            Self::Serial => {
                let first = place.ports().ok_or(UnknownPort)?.start;
                let number = COM_PORTS.iter().position(|&port| port == first).ok_or(UnknownPort)? + 1;
                let port = entry(&format!("COM{number}"), HardwareId::Eisa("PNP0501"));
                Some(DsdtEntry { number: Some(number), shares_irq: true, ..port })
            }
            Self::Cmos => Some(entry("RTC_", HardwareId::Eisa("PNP0B00"))),
            // QEMU's, for which Linux has a driver (drivers/misc/pvpanic/pvpanic-mmio.c).
            Self::PvPanic => Some(DsdtEntry { has_status: true, ..entry("PEVT", HardwareId::Text("QEMU0001")) }),
            // The FADT has the first three's registers, and says that there is no keyboard controller, for which Linux would probe
            // for half a second; the MADT has the IOAPIC; and who uses the others knows where they are.
            Self::AcpiPm
            | Self::Reset
            | Self::HostBridge
            | Self::I8042
            | Self::IoApic
            | Self::Port61
            | Self::Vga
            | Self::DebugExit
            | Self::DebugConsole
            | Self::FwCfg => None,
        })
    }
}
