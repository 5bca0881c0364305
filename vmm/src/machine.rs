//! The machine: a plan made real, ready to run.

use std::sync::{Arc, Mutex};

use carpel_arch::map::RowName;
use carpel_devices::console::ConsolePort;
use carpel_devices::virtio::config::Devices;
use carpel_devices::virtio::console::ConsoleHandle;
use carpel_devices::virtio::runner::Runner;
use kvm_ioctls::Kvm;

use crate::boot;
use crate::config::Config;
use crate::console::Console;
use crate::dump::View;
use crate::error::MachineError;
use crate::exit::Buses;
use crate::kvm::Vm;
use crate::loader::Files;
use crate::memory::{Backing, GuestRam, HUGE_PAGE, MemoryError};
use crate::outcome::Shutdown;
use crate::plan::Plan;
use crate::platform;
use crate::threads::{NewVcpus, StartingVcpus};
use crate::virtio;

/// A guest that has not run yet. Fields are dropped in this order: vCPUs and devices before the memory that they use.
pub struct Machine {
    pub(crate) vcpus: NewVcpus,
    pub(crate) runners: Vec<Runner>,
    pub(crate) buses: Arc<Buses>,
    pub(crate) serial: Arc<Mutex<dyn ConsolePort>>,
    pub(crate) console: Option<ConsoleHandle>,
    pub(crate) view: Arc<View>,
    pub(crate) foundation: Foundation,
}

/// What vCPUs and devices stand on: kept until they are gone.
pub(crate) struct Foundation {
    _vm: Vm,
    _ram: GuestRam,
    _rom: Option<GuestRam>,
}

impl Machine {
    /// Builds the machine with this RAM and these virtio devices, which are the plan's. The console's output goes to
    /// `console`; what devices report goes to `shutdown`.
    pub fn new(
        kvm: Kvm,
        plan: &Arc<Plan>,
        files: &Files,
        ram: GuestRam,
        devices: Devices,
        console: &Console,
        shutdown: &Arc<Shutdown>,
    ) -> Result<Self, MachineError> {
        let kvm = Arc::new(kvm);
        let starting = StartingVcpus::start(Arc::clone(&kvm), plan.vcpus).map_err(MachineError::Threads)?;
        let vm = Vm::new(&kvm, plan, &ram)?;
        let rom = rom(&vm, plan, files)?;
        let vcpus = starting.build_on(vm.vcpu_setup(plan, ram.memory()));
        boot::load(plan, files, ram.memory())?;
        let port = console.port(plan.console().and_then(|placed| placed.kind.console()).unwrap_or("serial"));
        let (mut buses, serial) = platform::build(&vm, plan, files, Box::new(port), shutdown)?;
        let view = View { map: plan.map.clone(), devices: plan.devices.clone(), memory: ram.memory().clone() };
        let memory = Arc::new(ram.memory().clone());
        if let Some(ports) = &devices.console {
            ports.connect(Box::new(console.clone()));
        }
        let runners = virtio::build(&vm, plan, devices.list, &memory, &mut buses.mmio)?;
        Ok(Self {
            vcpus,
            runners,
            buses: Arc::new(buses),
            serial,
            console: devices.console,
            view: Arc::new(view),
            foundation: Foundation { _vm: vm, _ram: ram, _rom: rom },
        })
    }
}

/// The guest's RAM, before there is a VM: what the configuration wants behind it may not be there.
pub fn allocate_ram(config: &Config, plan: &Plan) -> Result<GuestRam, MemoryError> {
    let backing = match (config.hugepages, config.shared_memory) {
        (true, shared) => Backing::HugePages { shared },
        (false, true) => Backing::Memfd { small_start: is_small(plan) },
        (false, false) => Backing::Anonymous { small_start: is_small(plan) },
    };
    GuestRam::new(&plan.map.slots(), backing)
}

/// Whether the guest is likely to leave most of a huge page untouched. Zeroing one takes longer than all else that happens
/// before a small guest runs; a kernel that fills one pays for small pages with a fault for each.
fn is_small(plan: &Plan) -> bool {
    plan.map.claim(RowName::Kernel).is_none_or(|kernel| kernel.size() < HUGE_PAGE as u64)
}

/// The largest page of any host: memory slots are made of whole pages.
const ROM_GRANULE: u64 = 64 << 10;

/// The firmware's image in memory of its own, where the map has it outside of RAM.
fn rom(vm: &Vm, plan: &Plan, files: &Files) -> Result<Option<GuestRam>, MachineError> {
    let (Some(source), Some(claim)) = (&files.firmware, plan.map.claim(RowName::FirmwareImage)) else {
        return Ok(None);
    };
    let range = claim.start..claim.end.next_multiple_of(ROM_GRANULE);
    let rom = GuestRam::new(std::slice::from_ref(&range), Backing::default())?;
    source.load(rom.memory(), 0, claim.size(), claim.start)?;
    vm.add_rom(&range, &rom)?;
    Ok(Some(rom))
}
