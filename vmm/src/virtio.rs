//! The guest's virtio devices: how they are made, and put where the plan has them.

use std::io;
use std::sync::{Arc, Mutex};

use carpel_devices::bus::Bus;
use carpel_devices::interrupt::IrqLine;
use carpel_devices::virtio::VirtioDevice;
use carpel_devices::virtio::runner::{Runner, WorkerThreads};
use carpel_devices::virtio::transport::mmio::Mmio;
use vm_memory::GuestMemoryMmap;

use crate::error::MachineError;
use crate::kvm::Vm;
use crate::plan::Plan;

/// Puts the devices at the plan's places; returns what is to be run.
pub fn build(
    vm: &Vm,
    plan: &Plan,
    devices: Vec<Box<dyn VirtioDevice>>,
    memory: &Arc<GuestMemoryMmap>,
    bus: &mut Bus,
) -> Result<Vec<Runner>, MachineError> {
    let mut all = Vec::new();
    for (placed, device) in plan.virtio_devices().zip(devices) {
        let error = |source| MachineError::Line { name: placed.name, source };
        let unknown = || MachineError::unknown(plan, placed);
        let (range, irq) = placed.place.mmio().zip(placed.irq).ok_or_else(unknown)?;
        let line = IrqLine::new().map_err(error)?;
        let (mmio, runners) = Mmio::new(device, Arc::clone(memory), line.clone()).map_err(error)?;
        vm.connect(&line, irq);
        // A VM that has had an ioeventfd takes 10 ms longer to close, which devices of rare requests are not worth:
        // their notifications pass through the register.
        if runners.iter().any(|runner| runner.thread().is_some()) {
            for (queue, kick) in (0..).zip(mmio.kicks()) {
                vm.signal_on_write(kick, range.start + Mmio::NOTIFY, queue)?;
            }
        }
        bus.insert(placed.name, Arc::new(Mutex::new(mmio)), range.start, range.end - range.start)?;
        all.extend(runners);
    }
    Ok(all)
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
