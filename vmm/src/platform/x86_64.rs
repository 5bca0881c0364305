//! The devices of a PC.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use carpel_arch::DeviceKind;
use carpel_arch::map::{Extent, MemoryMap};
use carpel_arch::x86_64::devices::PcDevice;
use carpel_arch::x86_64::{acpi_loader, mptable};
use carpel_devices::bus::{Bus, BusDevice, BusError};
use carpel_devices::console::ConsolePort;
use carpel_devices::event::EventSink;
use carpel_devices::legacy::acpi_pm::AcpiPm;
use carpel_devices::legacy::cmos::Cmos;
use carpel_devices::legacy::debug_console::DebugConsole;
use carpel_devices::legacy::debug_exit::DebugExit;
use carpel_devices::legacy::fw_cfg::{Contents, FwCfg, FwFile, FwKernel};
use carpel_devices::legacy::host_bridge::HostBridge;
use carpel_devices::legacy::i8042::I8042;
use carpel_devices::legacy::ioapic::IoApic;
use carpel_devices::legacy::port61::Port61;
use carpel_devices::legacy::pvpanic::PvPanic;
use carpel_devices::legacy::reset::ResetControl;
use carpel_devices::legacy::vga::Vga;

use crate::boot::{self, BootError};
use crate::error::MachineError;
use crate::exit::Buses;
use crate::kvm::Vm;
use crate::loader::{Files, Joined, Module, Source};
use crate::outcome::Shutdown;
use crate::plan::Plan;

/// Where the high RAM of a PC starts, which its CMOS tells apart.
const FOUR_GIB: u64 = 1 << 32;

/// Makes the devices and puts them on their buses.
pub fn build(
    vm: &Vm,
    plan: &Plan,
    files: &Files,
    serial: &Arc<Mutex<dyn ConsolePort>>,
    shutdown: &Arc<Shutdown>,
) -> Result<Buses, MachineError> {
    let mut buses = Buses::default();
    let events = || Arc::clone(shutdown) as Arc<dyn EventSink>;
    for placed in plan.machine_devices() {
        let DeviceKind::Pc(kind) = placed.kind else { return Err(MachineError::unknown(plan, placed)) };
        let device: Arc<Mutex<dyn BusDevice>> = match kind {
            PcDevice::Serial => serial.clone(),
            PcDevice::Port61 => Arc::new(Mutex::new(Port61::default())),
            PcDevice::Vga => Arc::new(Mutex::new(Vga::default())),
            PcDevice::DebugConsole => Arc::new(Mutex::new(DebugConsole::default())),
            PcDevice::HostBridge => Arc::new(Mutex::new(HostBridge::new(ResetControl::new(events())))),
            PcDevice::FwCfg => Arc::new(Mutex::new(fw_cfg(plan, files)?)),
            PcDevice::Cmos => Arc::new(Mutex::new(cmos(plan))),
            PcDevice::AcpiPm => Arc::new(Mutex::new(AcpiPm::new(events()))),
            PcDevice::Reset => Arc::new(Mutex::new(ResetControl::new(events()))),
            PcDevice::DebugExit => Arc::new(Mutex::new(DebugExit::new(events()))),
            PcDevice::PvPanic => Arc::new(Mutex::new(PvPanic::new(events()))),
            PcDevice::I8042 => {
                let ports = placed.place.ports().ok_or_else(|| MachineError::unknown(plan, placed))?;
                insert_i8042(&mut buses.port, placed.name, ports.start, I8042::new(events()))?;
                continue;
            }
            PcDevice::IoApic => {
                let router = vm.msi_router(plan.irqchip).ok_or_else(|| MachineError::unknown(plan, placed))?;
                let ioapic = Arc::new(Mutex::new(IoApic::new(mptable::ioapic_id(plan.vcpus as u8), router)));
                buses.end_of_interrupt = Some(ioapic.clone());
                ioapic
            }
        };
        super::insert(&mut buses, placed, device)?;
    }
    Ok(buses)
}

fn fw_cfg(plan: &Plan, given: &Files) -> Result<FwCfg, BootError> {
    let tables = acpi_loader::files(&boot::x86_64::platform(plan)?)?;
    let mut files: Vec<_> = tables.into_iter().map(|(name, contents)| FwFile { name, contents }).collect();
    files.push(FwFile { name: "etc/e820", contents: firmware_e820(&plan.map) });
    if let Some(ports) = plan.console().and_then(|serial| serial.place.ports()) {
        // SeaBIOS then has its screen and keyboard there: there is no other.
        let contents = u64::from(ports.start).to_le_bytes().to_vec();
        files.push(FwFile { name: "etc/sercon-port", contents });
    }
    Ok(FwCfg::new(plan.vcpus as u16, files, fw_kernel(plan, given)))
}

fn fw_kernel(plan: &Plan, files: &Files) -> Option<FwKernel> {
    let (source, handover) = (files.kernel.as_ref()?, plan.handover?);
    let part =
        |source: &Source, offset, size| Box::new(Part { source: source.clone(), offset, size }) as Box<dyn Contents>;
    Some(FwKernel {
        setup: part(source, 0, handover.setup_size),
        kernel: part(source, handover.setup_size, handover.kernel_size),
        initrd: (!files.initrds.is_empty()).then(|| initrds(plan, files)),
        cmdline: plan.cmdline.clone(),
    })
}

fn initrds(plan: &Plan, files: &Files) -> Box<dyn Contents> {
    Box::new(Initrds { joined: Joined::new(&plan.modules, &files.initrds), size: Module::end(&plan.modules) })
}

/// The initial RAM disks as firmware reads them.
struct Initrds {
    joined: Joined,
    size: u64,
}

impl Contents for Initrds {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.joined.read(offset, buffer)
    }
}

/// Bytes of a file that firmware reads.
struct Part {
    source: Source,
    offset: u64,
    size: u64,
}

impl Contents for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.source.read(self.offset + offset, buffer)
    }
}

/// The RAM as firmware is told of it: start, size and type (1) of each range. It knows a PC's holes itself.
fn firmware_e820(map: &MemoryMap) -> Vec<u8> {
    const RAM: u32 = 1;
    let entry = |ram: &Extent| {
        let mut bytes = [ram.start.to_le_bytes(), ram.size().to_le_bytes()].concat();
        bytes.extend(RAM.to_le_bytes());
        bytes
    };
    map.ram().flat_map(entry).collect()
}

fn cmos(plan: &Plan) -> Cmos {
    let (low, high): (Vec<_>, Vec<_>) = plan.map.ram().partition(|ram| ram.start < FOUR_GIB);
    let sum = |ram: Vec<&Extent>| ram.into_iter().map(Extent::size).sum();
    Cmos::new(sum(low), sum(high), SystemTime::now)
}

/// The controller has two ports, with another device's between them.
fn insert_i8042(port: &mut Bus, name: &str, first: u16, device: I8042) -> Result<(), BusError> {
    let device = Arc::new(Mutex::new(device));
    for register in [I8042::DATA, I8042::COMMAND] {
        port.insert_part(name, device.clone(), u64::from(first) + register, 1, register)?;
    }
    Ok(())
}
