//! The devices that a machine comes with, made and put where the plan has them.

mod aarch64;
mod x86_64;

use std::io::Write;
use std::sync::{Arc, Mutex};

use carpel_arch::aarch64::devices::ArmDevice;
use carpel_arch::{Board, Device, DeviceKind, Place};
use carpel_devices::bus::{BusDevice, BusError};
use carpel_devices::console::ConsolePort;
use carpel_devices::interrupt::IrqLine;
use carpel_devices::legacy::pl011::Pl011;
use carpel_devices::legacy::serial::Serial;

use crate::error::MachineError;
use crate::exit::Buses;
use crate::kvm::Vm;
use crate::loader::Files;
use crate::outcome::Shutdown;
use crate::plan::Plan;

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
    let buses = match plan.map.board {
        Board::Pc => x86_64::build(vm, plan, files, &port, shutdown)?,
        Board::ArmCrosvm | Board::ArmVirt | Board::RiscvVirt => aarch64::build(vm, plan, &port)?,
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
    Ok(match placed.map(|port| port.kind) {
        Some(DeviceKind::Arm(ArmDevice::Pl011)) => Arc::new(Mutex::new(Pl011::new(line, console).map_err(error)?)),
        _ => Arc::new(Mutex::new(Serial::new(line, console).map_err(error)?)),
    })
}

/// Puts a device where the plan has it.
fn insert(buses: &mut Buses, placed: &Device, device: Arc<Mutex<dyn BusDevice>>) -> Result<(), BusError> {
    match &placed.place {
        Place::Ports(range) => {
            buses.port.insert(placed.name, device, range.start.into(), (range.end - range.start).into())
        }
        Place::Mmio(range) => buses.mmio.insert(placed.name, device, range.start, range.end - range.start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carpel_arch::device::place;
    use carpel_arch::map::{Boot, Inputs};
    use carpel_arch::x86_64::devices::PcDevice;
    use carpel_arch::{LAYOUTS, resolve};
    use carpel_devices::legacy::{AcpiPm, Cmos, FwCfg, HostBridge, I8042, IoApic, Pl031, Pl061, Vga};

    /// How many bytes of registers a device answers for; all that it is given, if it has no size of its own.
    fn size(kind: DeviceKind) -> Option<u64> {
        match kind {
            DeviceKind::Pc(kind) => match kind {
                PcDevice::Serial => Some(Serial::LEN),
                PcDevice::I8042 => Some(I8042::COMMAND + 1),
                PcDevice::Cmos => Some(Cmos::LEN),
                PcDevice::Vga => Some(Vga::LEN),
                PcDevice::AcpiPm => Some(AcpiPm::LEN),
                PcDevice::HostBridge => Some(HostBridge::LEN),
                PcDevice::FwCfg => Some(FwCfg::LEN),
                PcDevice::IoApic => Some(IoApic::LEN),
                PcDevice::DebugExit => Some(size_of::<u32>() as u64),
                PcDevice::Port61 | PcDevice::Reset | PcDevice::PvPanic | PcDevice::DebugConsole => Some(1),
            },
            DeviceKind::Arm(kind) => match kind {
                ArmDevice::Serial => Some(Serial::LEN),
                ArmDevice::Pl011 => Some(Pl011::LEN),
                ArmDevice::Pl031 => Some(Pl031::LEN),
                ArmDevice::Pl061 => Some(Pl061::LEN),
                ArmDevice::CfiFlash => None,
            },
            DeviceKind::VirtioMmio => None,
        }
    }

    #[test]
    fn the_tables_have_as_many_registers_as_the_devices() {
        let mut seen = 0;
        for layout in LAYOUTS {
            for boot in [Boot::Linux, Boot::Firmware] {
                let firmware = if boot == Boot::Firmware { 1 << 20 } else { 0 };
                let map = resolve(layout, &Inputs { boot, firmware, ..Inputs::new(layout.arch, 256 << 20) }).unwrap();
                for device in place(&map, boot, true).unwrap() {
                    let given = match &device.place {
                        Place::Ports(range) => u64::from(range.end - range.start),
                        Place::Mmio(range) => range.end - range.start,
                    };
                    assert_eq!(given, size(device.kind).unwrap_or(given), "{device:?}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 40, "{seen}");
    }
}
