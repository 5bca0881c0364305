//! The devices that every machine of an architecture has: where they are, and how they are made.

mod x86_64;

use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use carpel_arch::map::{Address, Arch, MemoryMap};
use carpel_devices::interrupt::IrqLine;
use carpel_devices::legacy::serial::Serial;

use crate::config::IrqchipMode;
use crate::exit::Buses;
use crate::kvm::Vm;
use crate::machine::MachineError;
use crate::outcome::Ending;
use crate::plan::Plan;

/// The devices that a machine can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The first serial port.
    Serial,
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
    /// The IOAPIC of a split interrupt controller.
    IoApic,
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
        Arch::Aarch64 | Arch::Riscv64 => Vec::new(),
    }
}

/// Makes the devices of the plan. The first serial port prints to `console`; what devices report goes to `ending`.
pub fn build(
    vm: &Vm,
    plan: &Plan,
    console: Box<dyn Write + Send>,
    ending: &Arc<Ending>,
) -> Result<(Buses, Arc<Mutex<Serial>>), MachineError> {
    let serial = serial(vm, plan, console)?;
    let buses = x86_64::build(vm, plan, &serial, ending)?;
    Ok((buses, serial))
}

fn serial(vm: &Vm, plan: &Plan, console: Box<dyn Write + Send>) -> Result<Arc<Mutex<Serial>>, MachineError> {
    let name = "serial";
    let line = IrqLine::new().map_err(|source| MachineError::Line { name, source })?;
    if let Some(irq) = plan.device(Device::Serial).and_then(|serial| serial.irq) {
        vm.connect(&line, irq)?;
    }
    let serial = Serial::new(line, console).map_err(|source| MachineError::Line { name, source })?;
    Ok(Arc::new(Mutex::new(serial)))
}
