//! The devices of machines as data: what each is, where it is, and its interrupt.
//!
//! A [`Board`] has a table of rows, as a layout has for its map. [`place`] turns it and a resolved map into the list that all
//! else reads: ACPI, device tree, buses, KVM, and what is printed of the machine.

use std::fmt;
use std::ops::Range;

use crate::aarch64::devices::{self as arm, ArmDevice};
use crate::board::Board;
use crate::map::{Address, Boot, MemoryMap, MissingRow, RowName};
use crate::x86_64::devices::{self as pc, PcDevice};

impl Board {
    /// The devices that it comes with.
    pub const fn devices(self) -> &'static [DeviceRow] {
        match self {
            Self::Pc => &pc::PC,
            Self::ArmCrosvm => &arm::CROSVM,
            Self::ArmVirt => &arm::VIRT,
            // There is no KVM for it here yet, so nothing that would emulate one.
            Self::RiscvVirt => &[],
        }
    }
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// One that a PC comes with.
    Pc(PcDevice),
    /// One that an Arm board comes with.
    Arm(ArmDevice),
    /// A virtio device on the MMIO transport.
    VirtioMmio,
}

impl DeviceKind {
    /// What Linux calls it as a console; none if it is no serial port.
    pub const fn console(self) -> Option<&'static str> {
        match self {
            Self::Pc(PcDevice::Serial) | Self::Arm(ArmDevice::Serial) => Some("ttyS0"),
            Self::Arm(ArmDevice::Pl011) => Some("ttyAMA0"),
            _ => None,
        }
    }
}

/// A device and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it is.
    pub kind: DeviceKind,
    /// Its name in print.
    pub name: &'static str,
    /// Its registers.
    pub place: Place,
    /// Its interrupt, if it has one: a GSI (an SPI counted from 0 where interrupts are those of a GIC), edge-triggered unless its
    /// row says otherwise.
    pub irq: Option<u32>,
}

/// Where registers are. Ends are exclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Port I/O.
    Ports(Range<u16>),
    /// Guest physical addresses.
    Mmio(Range<u64>),
}

impl Place {
    /// The ports; none where registers are in memory.
    pub const fn ports(&self) -> Option<&Range<u16>> {
        match self {
            Self::Ports(range) => Some(range),
            Self::Mmio(_) => None,
        }
    }

    /// The guest physical addresses; none where registers are ports.
    pub const fn mmio(&self) -> Option<&Range<u64>> {
        match self {
            Self::Ports(_) => None,
            Self::Mmio(range) => Some(range),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(range) => write!(f, "ports {:#x}-{:#x}", range.start, range.end),
            Self::Mmio(range) => write!(f, "{}-{}", Address(range.start), Address(range.end)),
        }
    }
}

/// A row of a board's table.
#[derive(Clone, Debug)]
pub struct DeviceRow {
    /// What it is.
    pub kind: DeviceKind,
    /// Its name in print; unique among the rows of one machine.
    pub name: &'static str,
    /// Where its registers are.
    pub at: At,
    /// Its interrupt, as in [`Device::irq`].
    pub irq: Option<u32>,
    /// Which machines have it.
    pub presence: Presence,
}

/// Where a row's registers are.
#[derive(Clone, Debug)]
pub enum At {
    /// At these ports; the end is exclusive.
    Ports(Range<u16>),
    /// All of this region of the map.
    Region(RowName),
    /// All of this claim of the map.
    Claim(RowName),
}

/// Whether a device is part of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Of each.
    Always,
    /// Of one that firmware starts in.
    WithFirmware,
    /// Of one that a kernel is started in.
    WithoutFirmware,
    /// Of a PC whose IOAPIC is the monitor's, and which has neither PIC nor PIT.
    SplitIrqchip,
}

impl DeviceRow {
    /// A device of each machine, without an interrupt.
    pub const fn new(kind: DeviceKind, name: &'static str, at: At) -> Self {
        Self { kind, name, at, irq: None, presence: Presence::Always }
    }

    /// The same row with an interrupt.
    #[must_use]
    pub const fn irq(mut self, irq: u32) -> Self {
        self.irq = Some(irq);
        self
    }

    /// The same row, only in some machines.
    #[must_use]
    pub const fn when(mut self, presence: Presence) -> Self {
        self.presence = presence;
        self
    }
}

/// The devices that the machine of this map comes with, in the order of its table. `split_irqchip` is as in
/// [`Presence::SplitIrqchip`].
pub fn place(map: &MemoryMap, boot: Boot, split_irqchip: bool) -> Result<Vec<Device>, MissingRow> {
    let present = |row: &&DeviceRow| match row.presence {
        Presence::Always => true,
        Presence::WithFirmware => boot == Boot::Firmware,
        Presence::WithoutFirmware => boot != Boot::Firmware,
        Presence::SplitIrqchip => split_irqchip,
    };
    let placed = |&DeviceRow { kind, name, ref at, irq, .. }: &DeviceRow| {
        let place = match at {
            At::Ports(range) => Place::Ports(range.clone()),
            At::Region(name) => Place::Mmio(map.need_region(*name)?.range()),
            At::Claim(name) => Place::Mmio(map.need_claim(*name)?.range()),
        };
        Ok(Device { kind, name, place, irq })
    };
    map.board.devices().iter().filter(present).map(placed).collect()
}
