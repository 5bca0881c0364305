//! The machine: a plan made real, ready to run.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use carpel_arch::map::Extent;
use carpel_arch::x86_64::mptable;
use carpel_devices::bus::{Bus, BusDevice, BusError};
use carpel_devices::event::EventSink;
use carpel_devices::interrupt::IrqLine;
use carpel_devices::legacy::acpi_pm::AcpiPm;
use carpel_devices::legacy::cmos::Cmos;
use carpel_devices::legacy::debug_exit::DebugExit;
use carpel_devices::legacy::i8042::I8042;
use carpel_devices::legacy::ioapic::IoApic;
use carpel_devices::legacy::pvpanic::PvPanic;
use carpel_devices::legacy::reset::ResetControl;
use carpel_devices::legacy::serial::Serial;
use kvm_ioctls::Kvm;
use thiserror::Error;

use crate::exit::Buses;
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::memory::{GuestRam, MemoryError};
use crate::outcome::Ending;
use crate::plan::{Device, Files, Place, Placed, Plan};

/// Where the high RAM of a PC starts, which its CMOS tells apart.
const FOUR_GIB: u64 = 1 << 32;

/// A guest that has not run yet. Fields are dropped in this order: vCPUs before the memory that they use.
pub struct Machine {
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) buses: Arc<Buses>,
    pub(crate) serial: Arc<Mutex<Serial>>,
    _vm: Vm,
    _ram: GuestRam,
}

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum MachineError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There is no memory for the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Two devices want one address.
    #[error("Cannot place a device")]
    Bus(#[from] BusError),
    /// An eventfd could not be had.
    #[error("Cannot create the interrupt line of `{name}`")]
    Line {
        /// The device.
        name: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl Machine {
    /// Builds the machine. The console's output goes to `console`; what devices report goes to `ending`.
    pub fn new(
        kvm: Kvm,
        plan: &Plan,
        files: &Files,
        console: Box<dyn Write + Send>,
        ending: &Arc<Ending>,
    ) -> Result<Self, MachineError> {
        let ram = GuestRam::new(&plan.map.slots())?;
        let vm = Vm::new(kvm, plan, &ram)?;
        let vcpus = vm.boot(plan, files, ram.memory())?;
        let serial = serial(&vm, plan, console)?;
        let buses = buses(&vm, plan, &serial, ending)?;
        Ok(Self { vcpus, buses: Arc::new(buses), serial, _vm: vm, _ram: ram })
    }
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

fn buses(vm: &Vm, plan: &Plan, serial: &Arc<Mutex<Serial>>, ending: &Arc<Ending>) -> Result<Buses, MachineError> {
    let mut buses = Buses::default();
    let events = || Arc::clone(ending) as Arc<dyn EventSink>;
    for placed in &plan.devices {
        let device: Arc<Mutex<dyn BusDevice>> = match placed.device {
            Device::Serial => serial.clone(),
            Device::Cmos => Arc::new(Mutex::new(cmos(plan))),
            Device::AcpiPm => Arc::new(Mutex::new(AcpiPm::new(events()))),
            Device::Reset => Arc::new(Mutex::new(ResetControl::new(events()))),
            Device::DebugExit => Arc::new(Mutex::new(DebugExit::new(events()))),
            Device::PvPanic => Arc::new(Mutex::new(PvPanic::new(events()))),
            Device::I8042 => {
                insert_i8042(&mut buses.port, placed, I8042::new(events()))?;
                continue;
            }
            Device::IoApic => {
                let Some(router) = vm.msi_router(plan.irqchip) else { continue };
                let ioapic = Arc::new(Mutex::new(IoApic::new(mptable::ioapic_id(plan.vcpus as u8), router)));
                buses.ioapic = Some(ioapic.clone());
                ioapic
            }
        };
        match &placed.place {
            Place::Ports(range) => {
                buses.port.insert(placed.name, device, range.start.into(), (range.end - range.start).into())?;
            }
            Place::Mmio(range) => buses.mmio.insert(placed.name, device, range.start, range.end - range.start)?,
        }
    }
    Ok(buses)
}

fn cmos(plan: &Plan) -> Cmos {
    let (low, high): (Vec<_>, Vec<_>) = plan.map.ram().partition(|ram| ram.start < FOUR_GIB);
    let sum = |ram: Vec<&Extent>| ram.into_iter().map(Extent::size).sum();
    Cmos::new(sum(low), sum(high), SystemTime::now)
}

/// The controller has two ports, with another device's between them.
fn insert_i8042(port: &mut Bus, placed: &Placed, device: I8042) -> Result<(), BusError> {
    let Place::Ports(range) = &placed.place else { return Ok(()) };
    let device = Arc::new(Mutex::new(device));
    for register in [I8042::DATA, I8042::COMMAND] {
        port.insert_part(placed.name, device.clone(), u64::from(range.start) + register, 1, register)?;
    }
    Ok(())
}
