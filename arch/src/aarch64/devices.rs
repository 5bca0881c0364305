//! The devices of Arm boards: where each is, and how the device tree describes it.
//!
//! Addresses are the map's. Interrupts are SPIs, counted from 0, and edge-triggered.

use crate::device::{At, DeviceKind, DeviceRow, Presence};
use crate::map::RowName;

/// The devices that an Arm board can come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArmDevice {
    /// A 16550A serial port with a byte for each register.
    Serial,
    /// A PL011 UART.
    Pl011,
    /// A PL031 real-time clock.
    Pl031,
    /// A PL061 with eight general-purpose lines, of which one is the power key.
    Pl061,
    /// Flash memory of two 16-bit chips side by side that tells its properties by the Common Flash Interface.
    CfiFlash,
}

/// crosvm's `AARCH64_SERIAL_1_3_IRQ`, of the ports that a PC calls COM1 and COM3.
const CROSVM_SERIAL_SPI: u32 = 0;
/// crosvm's `AARCH64_RTC_IRQ`.
const CROSVM_RTC_SPI: u32 = 1;

/// The devices of crosvm's machine.
pub static CROSVM: [DeviceRow; 2] = [
    row(ArmDevice::Serial, RowName::Serial0).irq(CROSVM_SERIAL_SPI),
    row(ArmDevice::Pl031, RowName::Rtc).irq(CROSVM_RTC_SPI),
];

/// Of QEMU's `virt` machine (hw/arm/virt.c, `a15irqmap`): `VIRT_UART`, ...
const VIRT_UART_SPI: u32 = 1;
/// ... `VIRT_RTC`, ...
const VIRT_RTC_SPI: u32 = 2;
/// ... and `VIRT_GPIO`.
const VIRT_GPIO_SPI: u32 = 7;

/// The devices of QEMU's `virt` machine.
pub static VIRT: [DeviceRow; 4] = [
    row(ArmDevice::Pl011, RowName::Uart).irq(VIRT_UART_SPI),
    row(ArmDevice::Pl031, RowName::Rtc).irq(VIRT_RTC_SPI),
    row(ArmDevice::Pl061, RowName::Gpio).irq(VIRT_GPIO_SPI),
    row(ArmDevice::CfiFlash, RowName::FlashVariables).when(Presence::WithFirmware),
];

/// A device in the region that the map has for it, by whose name it goes.
const fn row(device: ArmDevice, region: RowName) -> DeviceRow {
    DeviceRow::new(DeviceKind::Arm(device), region.name(), At::Region(region))
}

/// How the device tree describes a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The node's name, without its address.
    pub name: &'static str,
    /// What drivers know it by, the most specific first.
    pub compatible: &'static [&'static str],
    /// The names by which a driver asks for its clocks, all of which are the bus's.
    pub clocks: &'static [&'static str],
    /// What else a driver must know.
    pub properties: &'static [Property],
}

/// A property of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// One that has no value.
    Flag(&'static str),
    /// A number.
    Number(&'static str, u32),
    /// The handle by which other nodes refer to this one.
    Handle(u32),
}

/// The handle of the general-purpose lines.
pub const GPIO_HANDLE: u32 = 3;

/// The frequency that a PC's serial port divides, in Hz.
const SERIAL_CLOCK: u32 = 1_843_200;
/// Bytes of the flash's data bus (bindings, mtd/mtd-physmap.yaml).
const FLASH_BANK_WIDTH: u32 = 4;

impl ArmDevice {
    /// How the device tree describes it.
    pub const fn node(self) -> Node {
        match self {
            Self::Serial => Node {
                name: "serial",
                compatible: &["ns16550a"],
                clocks: &[],
                properties: &[Property::Number("clock-frequency", SERIAL_CLOCK)],
            },
            Self::Pl011 => Node {
                name: "serial",
                compatible: &["arm,pl011", "arm,primecell"],
                clocks: &["uartclk", "apb_pclk"],
                properties: &[],
            },
            Self::Pl031 => Node {
                name: "rtc",
                compatible: &["arm,pl031", "arm,primecell"],
                clocks: &["apb_pclk"],
                properties: &[],
            },
            Self::Pl061 => Node {
                name: "gpio",
                compatible: &["arm,pl061", "arm,primecell"],
                clocks: &["apb_pclk"],
                properties: &[
                    Property::Flag("gpio-controller"),
                    Property::Number("#gpio-cells", 2),
                    Property::Handle(GPIO_HANDLE),
                ],
            },
            Self::CfiFlash => Node {
                name: "flash",
                compatible: &["cfi-flash"],
                clocks: &[],
                properties: &[Property::Number("bank-width", FLASH_BANK_WIDTH)],
            },
        }
    }
}
