//! The devices of Arm machines.

use std::sync::{Arc, Mutex};

use carpel_arch::map::{MemoryMap, RowName};
use carpel_devices::bus::BusDevice;
use carpel_devices::console::ConsolePort;
use carpel_devices::legacy::cfi_flash::CfiFlash;
use carpel_devices::legacy::pl031::Pl031;
use carpel_devices::legacy::pl061::Pl061;

use super::{Device, Place, Placed};
use crate::exit::Buses;
use crate::kvm::Vm;
use crate::machine::MachineError;
use crate::plan::Plan;

/// A device by the region that the map has for it, and its interrupt, if it has one: an SPI, counted from 0.
type Row = (RowName, Device, Option<u32>);

const CROSVM: [Row; 2] = [(RowName::Serial0, Device::Serial, Some(0)), (RowName::Rtc, Device::Pl031, Some(1))];
const VIRT: [Row; 4] = [
    (RowName::Uart, Device::Pl011, Some(1)),
    (RowName::Rtc, Device::Pl031, Some(2)),
    (RowName::Gpio, Device::Pl061, Some(7)),
    (RowName::FlashVariables, Device::CfiFlash, None),
];

/// The devices of a machine with this map: those that it has a region for.
pub fn place(map: &MemoryMap) -> Vec<Placed> {
    let rows: &[Row] = if map.region(RowName::Uart).is_some() { &VIRT } else { &CROSVM };
    let placed = |&(name, device, irq): &Row| {
        let place = Place::Mmio(map.region(name)?.range());
        Some(Placed { device, name: name.name(), place, irq })
    };
    rows.iter().filter_map(placed).collect()
}

/// Makes the devices and puts them on their bus.
pub fn build(vm: &Vm, plan: &Plan, port: &Arc<Mutex<dyn ConsolePort>>) -> Result<Buses, MachineError> {
    let mut buses = Buses::default();
    for placed in &plan.devices {
        let device: Arc<Mutex<dyn BusDevice>> = match placed.device {
            Device::Serial | Device::Pl011 => port.clone(),
            Device::Pl031 => Arc::new(Mutex::new(Pl031::new())),
            Device::Pl061 => Arc::new(Mutex::new(Pl061::new())),
            Device::CfiFlash => {
                let Place::Mmio(range) = &placed.place else { continue };
                let array = Box::new(vm.add_flash(plan, range)?);
                Arc::new(Mutex::new(CfiFlash::new(array, range.start, range.end - range.start)))
            }
            _ => continue,
        };
        super::insert(&mut buses, placed, device)?;
    }
    Ok(buses)
}
