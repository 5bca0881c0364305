//! The devices of Arm machines.

use std::sync::{Arc, Mutex};

use carpel_arch::aarch64::devices::ArmDevice;
use carpel_arch::{Device, DeviceKind};
use carpel_devices::bus::BusDevice;
use carpel_devices::console::ConsolePort;
use carpel_devices::interrupt::IrqLine;
use carpel_devices::legacy::cfi_flash::CfiFlash;
use carpel_devices::legacy::pl031::Pl031;
use carpel_devices::legacy::pl061::Pl061;

use crate::error::MachineError;
use crate::exit::Buses;
use crate::kvm::Vm;
use crate::plan::Plan;

/// Makes the devices and puts them on their bus.
pub fn build(vm: &Vm, plan: &Plan, port: &Arc<Mutex<dyn ConsolePort>>) -> Result<Buses, MachineError> {
    let mut buses = Buses::default();
    for placed in plan.machine_devices() {
        let DeviceKind::Arm(kind) = placed.kind else { return Err(MachineError::unknown(plan, placed)) };
        let device: Arc<Mutex<dyn BusDevice>> = match kind {
            ArmDevice::Serial | ArmDevice::Pl011 => port.clone(),
            ArmDevice::Pl031 => Arc::new(Mutex::new(Pl031::new(line(vm, placed)?))),
            ArmDevice::Pl061 => Arc::new(Mutex::new(Pl061::new())),
            ArmDevice::CfiFlash => {
                let range = placed.place.mmio().ok_or_else(|| MachineError::unknown(plan, placed))?;
                let array = Box::new(vm.add_flash(range)?);
                Arc::new(Mutex::new(CfiFlash::new(array, range.start, range.end - range.start)))
            }
        };
        super::insert(&mut buses, placed, device)?;
    }
    Ok(buses)
}

/// The interrupt line of a device that has one.
fn line(vm: &Vm, placed: &Device) -> Result<IrqLine, MachineError> {
    let line = IrqLine::new().map_err(|source| MachineError::Line { name: placed.name, source })?;
    if let Some(irq) = placed.irq {
        vm.connect(&line, irq);
    }
    Ok(line)
}
