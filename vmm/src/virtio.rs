//! The guest's virtio devices: where they are, how it learns of them, and how they are made.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex};

use carpel_arch::map::MemoryMap;
use carpel_devices::bus::Bus;
use carpel_devices::interrupt::IrqLine;
use carpel_devices::virtio::VirtioDevice;
use carpel_devices::virtio::console::{self, ConsoleHandle};
use carpel_devices::virtio::runner::{Runner, WorkerThreads};
use carpel_devices::virtio::transport::mmio::Mmio;
use thiserror::Error;
use vm_memory::GuestMemoryMmap;

use crate::config::{Config, VirtioConfig};
use crate::console::Console;
use crate::kvm::Vm;
use crate::machine::MachineError;
use crate::plan::{Plan, PlanError};

/// A virtio device's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Name of the device's kind.
    pub kind: &'static str,
    /// Guest physical address of its registers.
    pub base: u64,
    /// Size of the window in bytes.
    pub len: u64,
    /// Its interrupt: a GSI (an SPI counted from 0 where interrupts are those of a GIC).
    pub irq: u32,
}

/// A device that could not be had.
#[derive(Debug, Error)]
#[error("Cannot make the device `{device}`")]
pub struct OpenError {
    /// The device as it was written.
    pub device: String,
    /// The cause.
    pub source: Box<dyn Error + Send + Sync>,
}

/// Gives each device the next window and the next interrupt of the layout.
pub fn place(map: &MemoryMap, config: &Config) -> Result<Vec<Window>, PlanError> {
    let layout = config.layout;
    let irqs = layout.window_irqs.iter().cloned().flatten();
    let mut places = map.windows(layout).zip(irqs);
    let place = |(index, device): (usize, &VirtioConfig)| {
        let (range, irq) = places.next().ok_or_else(|| PlanError::TooManyDevices {
            number: index + 1,
            device: device.options.text().to_owned(),
            layout: layout.name,
            room: index,
        })?;
        Ok(Window { kind: device.kind.kind.name, base: range.start, len: range.end - range.start, irq })
    };
    config.virtio.iter().enumerate().map(place).collect()
}

/// What tells Linux of the devices on its command line (drivers/virtio/virtio_mmio.c).
pub fn words(windows: &[Window]) -> Vec<String> {
    let word = |window: &Window| format!("virtio_mmio.device={}K@{:#x}:{}", window.len >> 10, window.base, window.irq);
    windows.iter().map(word).collect()
}

/// Finds the devices of a configuration that no host can make.
pub fn check(config: &Config) -> Result<(), OpenError> {
    config.virtio.iter().try_for_each(|device| (device.kind.check)(&device.options).map_err(cannot_make(device)))
}

/// Makes the devices of a configuration, with all that they need of the host.
pub fn open(config: &Config) -> Result<Vec<Box<dyn VirtioDevice>>, OpenError> {
    let mut order: Vec<_> = config.virtio.iter().enumerate().collect();
    // Consoles last: they create files and make them empty, for nothing where another device cannot be had, and by then an
    // image is locked.
    order.sort_by_key(|(_, device)| device.kind.kind.name == console::KIND.kind.name);
    let open = |(index, device): (usize, &VirtioConfig)| {
        Ok((index, (device.kind.open)(&device.options).map_err(cannot_make(device))?))
    };
    let mut devices = order.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
    devices.sort_by_key(|(index, _)| *index);
    Ok(devices.into_iter().map(|(_, device)| device).collect())
}

fn cannot_make(device: &VirtioConfig) -> impl FnOnce(Box<dyn Error + Send + Sync>) -> OpenError {
    |source| OpenError { device: device.options.text().to_owned(), source }
}

/// What the devices need of the machine from now on.
pub struct Built {
    /// To be run.
    pub runners: Vec<Runner>,
    /// The console's port, if the guest has a console device.
    pub console: Option<ConsoleHandle>,
}

/// Puts the devices at the plan's places.
pub fn build(
    vm: &Vm,
    plan: &Plan,
    devices: Vec<Box<dyn VirtioDevice>>,
    console: &Console,
    memory: &Arc<GuestMemoryMmap>,
    bus: &mut Bus,
) -> Result<Built, MachineError> {
    let mut built = Built { runners: Vec::new(), console: None };
    for (window, mut device) in plan.virtio.iter().zip(devices) {
        let error = |source| MachineError::Line { name: window.kind, source };
        built.console = device.connect_console(console).or(built.console);
        let line = IrqLine::new().map_err(error)?;
        let (mmio, runners) = Mmio::new(device, Arc::clone(memory), line).map_err(error)?;
        vm.connect(mmio.line(), window.irq);
        // A VM that has had an ioeventfd takes 10 ms longer to close, which devices of rare requests are not worth:
        // their notifications pass through the register.
        if runners.iter().any(|runner| runner.thread().is_some()) {
            for (queue, kick) in (0..).zip(mmio.kicks()) {
                vm.signal_on_write(kick, window.base + Mmio::NOTIFY, queue)?;
            }
        }
        bus.insert(window.kind, Arc::new(Mutex::new(mmio)), window.base, window.len)?;
        built.runners.extend(runners);
    }
    Ok(built)
}

/// Starts the runners that need a thread; returns the others.
pub fn start_threads(runners: Vec<Runner>) -> io::Result<(WorkerThreads, Vec<Runner>)> {
    let mut threads = WorkerThreads::default();
    let mut others = Vec::new();
    for runner in runners {
        match runner.thread() {
            Some(name) => threads.start(name, runner)?,
            None => others.push(runner),
        }
    }
    Ok((threads, others))
}
