//! The machine: a plan made real, ready to run.

use std::io;
use std::sync::{Arc, Mutex};

use carpel_arch::map::{Arch, RowName};
use carpel_arch::{Device, Place};
use carpel_devices::bus::BusError;
use carpel_devices::console::ConsolePort;
use carpel_devices::virtio::VirtioDevice;
use carpel_devices::virtio::console::ConsoleHandle;
use carpel_devices::virtio::runner::Runner;
use kvm_ioctls::Kvm;
use thiserror::Error;

use crate::boot::{self, BootError};
use crate::config::Config;
use crate::console::Console;
use crate::dump::View;
use crate::exit::Buses;
use crate::kvm::{KvmError, Vm};
use crate::loader::LoadError;
use crate::memory::{Backing, GuestRam, HUGE_PAGE, MemoryError};
use crate::outcome::Shutdown;
use crate::plan::{Files, Plan};
use crate::platform;
use crate::threads::NewVcpus;
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

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum MachineError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory does not hold what the guest needs at its start.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// There is no memory for the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The firmware's image could not be read.
    #[error("Cannot load the firmware")]
    Firmware(#[from] LoadError),
    /// The host gives no more threads, or no memory for them.
    #[error("Cannot start the vCPUs' threads")]
    Threads(#[source] io::Error),
    /// Two devices want one address.
    #[error("Cannot place a device")]
    Bus(#[from] BusError),
    /// A device that this machine does not have, or not where it is to be.
    #[error("A machine of {arch} with the layout `{layout}` cannot have the device `{name}` at {place}")]
    Device {
        /// The device.
        name: &'static str,
        /// Where it is to be.
        place: Place,
        /// The machine's architecture.
        arch: Arch,
        /// Its layout.
        layout: &'static str,
    },
    /// An eventfd could not be had.
    #[error("Cannot create the interrupt line of `{name}`")]
    Line {
        /// The device.
        name: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl MachineError {
    /// A device of the plan's that nothing here makes.
    pub(crate) fn unknown(plan: &Plan, device: &Device) -> Self {
        let (arch, layout) = (plan.map.arch, plan.map.layout);
        Self::Device { name: device.name, place: device.place.clone(), arch, layout }
    }
}

impl Machine {
    /// Builds the machine with this RAM and these virtio devices, which are the plan's. The console's output goes to `console`; what
    /// devices report goes to `shutdown`.
    pub fn new(
        kvm: Kvm,
        plan: &Arc<Plan>,
        files: &Files,
        ram: GuestRam,
        devices: Vec<Box<dyn VirtioDevice>>,
        console: &Console,
        shutdown: &Arc<Shutdown>,
    ) -> Result<Self, MachineError> {
        let kvm = Arc::new(kvm);
        let mut vcpus = NewVcpus::start(Arc::clone(&kvm), plan.vcpus).map_err(MachineError::Threads)?;
        let vm = Vm::new(&kvm, plan, &ram)?;
        let rom = rom(&vm, plan, files)?;
        vcpus.build_on(vm.vcpu_setup(plan, ram.memory()));
        boot::load(plan, files, ram.memory())?;
        let (mut buses, serial) = platform::build(&vm, plan, files, Box::new(console.clone()), shutdown)?;
        let view = View { map: plan.map.clone(), devices: plan.devices.clone(), memory: ram.memory().clone() };
        let memory = Arc::new(ram.memory().clone());
        let virtio::Built { runners, console } = virtio::build(&vm, plan, devices, console, &memory, &mut buses.mmio)?;
        Ok(Self {
            vcpus,
            runners,
            buses: Arc::new(buses),
            serial,
            console,
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
