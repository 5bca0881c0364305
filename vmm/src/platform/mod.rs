//! The devices that every machine of an architecture has: where they are, and how they are made.

mod aarch64;
mod x86_64;

use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use carpel_arch::map::{Address, Arch, MemoryMap};
use carpel_devices::bus::{BusDevice, BusError};
use carpel_devices::console::ConsolePort;
use carpel_devices::interrupt::IrqLine;
use carpel_devices::legacy::pl011::Pl011;
use carpel_devices::legacy::serial::Serial;
use carpel_devices::registry::{Key, Kind, Value};

use crate::config::IrqchipMode;
use crate::exit::Buses;
use crate::kvm::Vm;
use crate::machine::MachineError;
use crate::outcome::Shutdown;
use crate::plan::{Files, Plan};

pub use x86_64::acpi;

/// How `--device` chooses the interrupt controllers.
pub static IRQCHIP: Kind = Kind {
    name: "irqchip",
    about: "The interrupt controllers",
    keys: &[Key {
        name: "mode",
        about: "of a PC, split (IOAPIC in carpel, no PIC or PIT) or full (all in KVM, with PIC and PIT); on aarch64, gicv2 or \
                gicv3, as by --gic",
        value: Value::OneOf(&[
            IrqchipMode::Split.name(),
            IrqchipMode::Full.name(),
            IrqchipMode::GicV2.name(),
            IrqchipMode::GicV3.name(),
        ]),
        default: "split; gicv3 where the host has it",
    }],
    bare: None,
    example: "--device irqchip,mode=full",
    standard: false,
    single: false,
};

/// The devices that a machine can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The first serial port, a 16550A.
    Serial,
    /// The serial port of Arm boards.
    Pl011,
    /// The real-time clock of Arm boards.
    Pl031,
    /// The general-purpose lines of Arm boards.
    Pl061,
    /// The flash in which firmware of Arm boards keeps its variables.
    CfiFlash,
    /// The keyboard controller, for its reset line.
    I8042,
    /// System control port B, where KVM has no PIT that would serve it.
    Port61,
    /// A VGA adapter's registers.
    Vga,
    /// The real-time clock.
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

impl Device {
    /// What Linux calls it as a console; none if it is no serial port.
    pub const fn console(self) -> Option<&'static str> {
        match self {
            Self::Serial => Some("ttyS0"),
            Self::Pl011 => Some("ttyAMA0"),
            _ => None,
        }
    }
}

/// A device and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which device.
    pub device: Device,
    /// Its name in messages.
    pub name: &'static str,
    /// Its registers.
    pub place: Place,
    /// Its interrupt: a GSI.
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

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports(range) => write!(f, "ports {:#x}-{:#x}", range.start, range.end),
            Self::Mmio(range) => write!(f, "{}-{}", Address(range.start), Address(range.end)),
        }
    }
}

/// The devices of a machine with this map.
pub fn place(map: &MemoryMap, irqchip: IrqchipMode) -> Vec<Placed> {
    match map.arch {
        Arch::X86_64 => x86_64::place(map, irqchip),
        Arch::Aarch64 => aarch64::place(map),
        Arch::Riscv64 => Vec::new(),
    }
}

/// Makes the devices of the plan; firmware reads some of the files through one of them. The first serial port prints to `console`;
/// what devices report goes to `shutdown`.
pub fn build(
    vm: &Vm,
    plan: &Plan,
    files: &Files,
    console: Box<dyn Write + Send>,
    shutdown: &Arc<Shutdown>,
) -> Result<(Buses, Arc<Mutex<dyn ConsolePort>>), MachineError> {
    let port = console_port(vm, plan, console)?;
    let buses = match plan.map.arch {
        Arch::X86_64 => x86_64::build(vm, plan, files, &port, shutdown)?,
        Arch::Aarch64 | Arch::Riscv64 => aarch64::build(vm, plan, &port)?,
    };
    Ok((buses, port))
}

fn console_port(
    vm: &Vm,
    plan: &Plan,
    console: Box<dyn Write + Send>,
) -> Result<Arc<Mutex<dyn ConsolePort>>, MachineError> {
    let name = "serial";
    let error = |source| MachineError::Line { name, source };
    let line = IrqLine::new().map_err(error)?;
    let placed = plan.console();
    if let Some(irq) = placed.and_then(|port| port.irq) {
        vm.connect(&line, irq);
    }
    Ok(match placed.map(|port| port.device) {
        Some(Device::Pl011) => Arc::new(Mutex::new(Pl011::new(line, console).map_err(error)?)),
        _ => Arc::new(Mutex::new(Serial::new(line, console).map_err(error)?)),
    })
}

/// Puts a device where the plan has it.
fn insert(buses: &mut Buses, placed: &Placed, device: Arc<Mutex<dyn BusDevice>>) -> Result<(), BusError> {
    match &placed.place {
        Place::Ports(range) => {
            buses.port.insert(placed.name, device, range.start.into(), (range.end - range.start).into())
        }
        Place::Mmio(range) => buses.mmio.insert(placed.name, device, range.start, range.end - range.start),
    }
}
