//! The devices of a PC.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use carpel_arch::map::{Extent, MemoryMap, MissingRow, RowName};
use carpel_arch::x86_64::acpi::{self, Platform, SerialPort, VirtioMmio};
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
use carpel_devices::legacy::serial::Serial;
use carpel_devices::legacy::vga::Vga;

use super::{Device, Place, Placed};
use crate::config::IrqchipMode;
use crate::exit::Buses;
use crate::kvm::{KvmError, Vm};
use crate::loader::Source;
use crate::machine::MachineError;
use crate::outcome::Shutdown;
use crate::plan::{Files, Plan};
use crate::virtio::Window;

/// Where the high RAM of a PC starts, which its CMOS tells apart.
const FOUR_GIB: u64 = 1 << 32;

/// The devices of a PC, at the addresses that kernels expect (guest-visible tables name most of them, too).
pub fn place(map: &MemoryMap, irqchip: IrqchipMode) -> Vec<Placed> {
    let at = |device, name, base: u16, size: u64, irq| Placed {
        device,
        name,
        place: Place::Ports(base..base + size as u16),
        irq,
    };
    let mut devices = vec![
        at(Device::Serial, "serial", 0x3F8, Serial::LEN, Some(4)),
        at(Device::I8042, "i8042", 0x60, 5, None),
        at(Device::Cmos, "rtc", acpi::RTC_PORT, Cmos::LEN, Some(acpi::RTC_IRQ.into())),
        at(Device::Vga, "vga", Vga::PORT, Vga::LEN, None),
        at(Device::DebugExit, "debug-exit", 0xF4, 4, None),
        at(Device::PvPanic, "pvpanic", acpi::PVPANIC_PORT, 1, None),
        at(Device::AcpiPm, "acpi-pm", acpi::PM1A_EVENT_PORT, AcpiPm::LEN, Some(acpi::SCI_GSI.into())),
    ];
    if map.claim(RowName::FirmwareImage).is_some() {
        devices.push(at(Device::DebugConsole, "debug-console", 0x402, 1, None));
        devices.push(at(Device::FwCfg, "fw-cfg", 0x510, FwCfg::LEN, None));
        devices.push(at(Device::HostBridge, "host-bridge", 0xCF8, HostBridge::LEN, None));
    } else {
        devices.push(at(Device::Reset, "reset", acpi::RESET_PORT, 1, None));
    }
    if irqchip == IrqchipMode::Split {
        devices.push(at(Device::Port61, "port61", 0x61, 1, None));
    }
    if let (IrqchipMode::Split, Some(ioapic)) = (irqchip, map.claim(RowName::IoApic)) {
        let place = Place::Mmio(ioapic.start..ioapic.start + IoApic::LEN);
        devices.push(Placed { device: Device::IoApic, name: "ioapic", place, irq: None });
    }
    devices
}

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
    for placed in &plan.devices {
        let device: Arc<Mutex<dyn BusDevice>> = match placed.device {
            Device::Serial => serial.clone(),
            Device::Port61 => Arc::new(Mutex::new(Port61::default())),
            Device::Vga => Arc::new(Mutex::new(Vga::default())),
            Device::DebugConsole => Arc::new(Mutex::new(DebugConsole::default())),
            Device::HostBridge => Arc::new(Mutex::new(HostBridge::new(ResetControl::new(events())))),
            Device::FwCfg => Arc::new(Mutex::new(fw_cfg(plan, files)?)),
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
            Device::Pl011 | Device::Pl031 | Device::Pl061 | Device::CfiFlash => continue,
        };
        super::insert(&mut buses, placed, device)?;
    }
    Ok(buses)
}

/// What ACPI tells of the machine.
pub fn acpi(plan: &Plan) -> Result<Platform, MissingRow> {
    let start = |name| plan.map.need_claim(name).map(|claim| claim.start as u32);
    let serial = plan.device(Device::Serial).and_then(|serial| match serial.place {
        Place::Ports(ref ports) => Some(SerialPort { port: ports.start, irq: serial.irq? as u8 }),
        Place::Mmio(_) => None,
    });
    Ok(Platform {
        cpus: plan.vcpus as u8,
        lapic: start(RowName::Lapic)?,
        ioapic: start(RowName::IoApic)?,
        pic: plan.irqchip == IrqchipMode::Full,
        com: [serial, None, None, None],
        rtc: plan.device(Device::Cmos).is_some(),
        pvpanic: plan.device(Device::PvPanic).is_some(),
        virtio_mmio: plan.virtio_in_tables().iter().map(virtio_mmio).collect(),
    })
}

/// A PC's device windows lie below 4 GiB.
fn virtio_mmio(window: &Window) -> VirtioMmio {
    VirtioMmio { base: window.base as u32, len: window.len as u32, gsi: window.irq }
}

fn fw_cfg(plan: &Plan, given: &Files) -> Result<FwCfg, KvmError> {
    let tables = acpi_loader::files(&acpi(plan)?).map_err(|error| KvmError::Boot(error.to_string()))?;
    let mut files: Vec<_> = tables.into_iter().map(|(name, contents)| FwFile { name, contents }).collect();
    files.push(FwFile { name: "etc/e820", contents: firmware_e820(&plan.map) });
    if let Some(Place::Ports(ports)) = plan.device(Device::Serial).map(|serial| &serial.place) {
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
        initrd: files.initrd.as_ref().map(|initrd| part(initrd, 0, initrd.size())),
        cmdline: plan.cmdline.clone(),
    })
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
fn insert_i8042(port: &mut Bus, placed: &Placed, device: I8042) -> Result<(), BusError> {
    let Place::Ports(range) = &placed.place else { return Ok(()) };
    let device = Arc::new(Mutex::new(device));
    for register in [I8042::DATA, I8042::COMMAND] {
        port.insert_part(placed.name, device.clone(), u64::from(range.start) + register, 1, register)?;
    }
    Ok(())
}
