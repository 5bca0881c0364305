//! The devices of Arm machines.

use std::sync::{Arc, Mutex};

use carpel_arch::map::MemoryMap;
use carpel_devices::bus::BusDevice;
use carpel_devices::console::ConsolePort;
use carpel_devices::legacy::pl031::Pl031;
use carpel_devices::legacy::pl061::Pl061;

use super::{Device, Place, Placed};
use crate::exit::Buses;
use crate::machine::MachineError;
use crate::plan::Plan;

/// A device by the region that the map has for it, and its interrupt: an SPI, counted from 0.
type Row = (&'static str, Device, u32);

const CROSVM: [Row; 2] = [("serial0", Device::Serial, 0), ("rtc", Device::Pl031, 1)];
const VIRT: [Row; 3] = [("uart", Device::Pl011, 1), ("rtc", Device::Pl031, 2), ("gpio", Device::Pl061, 7)];

/// The devices of a machine with this map.
pub fn place(map: &MemoryMap) -> Vec<Placed> {
    let rows: &[Row] = if map.region("uart").is_some() { &VIRT } else { &CROSVM };
    let placed = |&(name, device, irq): &Row| {
        let place = Place::Mmio(map.region(name)?.range());
        Some(Placed { device, name, place, irq: Some(irq) })
    };
    rows.iter().filter_map(placed).collect()
}

/// Makes the devices and puts them on their bus.
pub fn build(plan: &Plan, port: &Arc<Mutex<dyn ConsolePort>>) -> Result<Buses, MachineError> {
    let mut buses = Buses::default();
    for placed in &plan.devices {
        let device: Arc<Mutex<dyn BusDevice>> = match placed.device {
            Device::Serial | Device::Pl011 => port.clone(),
            Device::Pl031 => Arc::new(Mutex::new(Pl031::new())),
            Device::Pl061 => Arc::new(Mutex::new(Pl061::new())),
            _ => continue,
        };
        super::insert(&mut buses, placed, device)?;
    }
    Ok(buses)
}
