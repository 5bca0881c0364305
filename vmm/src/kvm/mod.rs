//! Everything that talks to KVM, and all that differs between host architectures.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod abilities;
mod flash;
#[cfg(target_arch = "aarch64")]
use aarch64 as host;
mod slots;
mod vcpu;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as host;

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use carpel_arch::map::MissingRow;
use carpel_devices::interrupt::IrqLine;
use carpel_devices::legacy::ioapic::MsiRouter;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, VmFd};
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap};
use vmm_sys_util::errno::Error as Errno;
use vmm_sys_util::eventfd::EventFd;

pub use abilities::Abilities;
pub use flash::FlashSlot;
pub use host::host_facts;
pub use vcpu::Vcpu;

use slots::Slots;

use crate::boot::BootError;
use crate::config::IrqchipMode;
use crate::memory::{Backing, GuestRam, MemoryError};
use crate::plan::Plan;

/// The device that KVM is reached by.
pub const DEVICE: &str = "/dev/kvm";
/// KVM's API has been at this version since Linux 2.6.22; the documentation has others refused.
const API_VERSION: i32 = 12;

/// Why KVM does not serve.
#[derive(Debug, Error)]
pub enum KvmError {
    /// The device is not there.
    #[error("There is no {DEVICE}: load the module kvm_intel or kvm_amd, or enable virtualization in the firmware")]
    Missing,
    /// The device may not be opened.
    #[error("No permission to open {DEVICE}: add this user to the group `kvm`, then log in again")]
    Permission,
    /// The device cannot be opened.
    #[error("Cannot open {DEVICE}")]
    Open(#[source] Errno),
    /// It is not KVM as we know it.
    #[error("{DEVICE} speaks version {0} of KVM's API; {API_VERSION} is needed")]
    Version(i32),
    /// A call failed.
    #[error("{call} failed{detail}")]
    Call {
        /// The call's name in KVM's documentation.
        call: &'static str,
        /// With which values, if that matters.
        detail: String,
        /// The cause.
        source: Errno,
    },
    /// More vCPUs than this host's KVM takes.
    #[error("{wanted} vCPUs are more than the {max} that KVM takes on this host")]
    TooManyVcpus {
        /// What was asked for.
        wanted: u32,
        /// The most.
        max: usize,
    },
    /// There is no memory for what KVM shares with the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The processor that was asked for has more than this host's.
    #[error("KVM on this host does not support what --cpu asks for: {0}")]
    Features(String),
    /// A memory slot that is no region of guest memory.
    #[error("There is no guest memory at {start:#x} for a memory slot")]
    Slot {
        /// Where the slot starts.
        start: u64,
        /// The cause.
        source: GuestMemoryError,
    },
    /// The map lacks what the machine needs.
    #[error(transparent)]
    Map(#[from] MissingRow),
    /// Guest memory does not hold what the guest needs at its start.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A vCPU has more registers than KVM's structures hold.
    #[error("Cannot set a vCPU's registers: {0}")]
    Registers(String),
    /// The map is of another architecture.
    #[error("The map has no interrupt controller")]
    NoGic,
}

/// Adds the call's name to an error of KVM's.
trait Context<T> {
    fn call(self, call: &'static str) -> Result<T, KvmError>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn call(self, call: &'static str) -> Result<T, KvmError> {
        self.map_err(|source| KvmError::Call { call, detail: String::new(), source })
    }
}

/// Opens KVM.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        _ => KvmError::Open(error),
    })?;
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        version => Err(KvmError::Version(version)),
    }
}

/// A virtual machine of KVM's with its memory and, where they come before vCPUs, its interrupt controllers.
pub struct Vm {
    fd: Arc<VmFd>,
    slots: Slots,
    /// Memory that KVM itself shares with the guest besides RAM. It is dropped after the VM.
    shared: Option<GuestRam>,
}

impl Vm {
    /// Creates a VM with this RAM.
    pub fn new(kvm: &Kvm, plan: &Plan, ram: &GuestRam) -> Result<Self, KvmError> {
        let max = kvm.get_max_vcpus();
        if plan.vcpus as usize > max {
            return Err(KvmError::TooManyVcpus { wanted: plan.vcpus, max });
        }
        let fd = retry_interrupted(|| host::create_vm(kvm, plan)).call("KVM_CREATE_VM")?;
        let mut vm = Self { fd: Arc::new(fd), slots: Slots::default(), shared: None };
        // Slots come first: once there are vCPUs, each costs a hundred times as much (docs/performance.md).
        for range in plan.map.slots() {
            vm.add_memory(&range, ram.memory(), 0)?;
        }
        if let Some(range) = host::shared_memory(&vm.fd, plan) {
            let shared = GuestRam::new(std::slice::from_ref(&range), Backing::default())?;
            vm.add_memory(&range, shared.memory(), 0)?;
            vm.shared = Some(shared);
        }
        host::create_irqchip(&vm.fd, plan)?;
        Ok(vm)
    }

    /// Gives the guest a memory that it can only read; what it writes there goes to the MMIO bus.
    pub fn add_rom(&self, range: &Range<u64>, rom: &GuestRam) -> Result<(), KvmError> {
        self.add_memory(range, rom.memory(), KVM_MEM_READONLY)
    }

    /// Gives the guest the memory of flash chips.
    pub fn add_flash(&self, range: &Range<u64>) -> Result<FlashSlot, KvmError> {
        FlashSlot::new(Arc::clone(&self.fd), self.slots.next(), range)
    }

    /// Gives the guest a range of its memory, in as many slots as that takes.
    fn add_memory(&self, range: &Range<u64>, memory: &GuestMemoryMmap, flags: u32) -> Result<(), KvmError> {
        slots::pieces(range)
            .try_for_each(|piece| set_memory_region(&self.fd, memory_region(self.slots.next(), &piece, memory, flags)?))
    }

    /// Connects a line to an interrupt: an edge on it raises this GSI without the monitor's doing. KVM is told when the first
    /// edge comes.
    pub fn connect(&self, line: &IrqLine, gsi: u32) {
        let vm = Arc::clone(&self.fd);
        line.connect(move |eventfd| {
            // Of a GSI that is the layout's, it takes only memory.
            if let Err(error) = vm.register_irqfd(eventfd, gsi) {
                log::error!("Interrupts of GSI {gsi} are lost: KVM_IRQFD failed: {error}");
            }
        });
    }

    /// Has a 32-bit write of `value` to this guest physical address signal the eventfd without the monitor's doing.
    pub fn signal_on_write(&self, eventfd: &EventFd, address: u64, value: u32) -> Result<(), KvmError> {
        self.fd.register_ioevent(eventfd, &IoEventAddress::Mmio(address), value).map_err(|source| KvmError::Call {
            call: "KVM_IOEVENTFD",
            detail: format!(" for {value} at {address:#x}"),
            source,
        })
    }

    /// What the monitor's IOAPIC delivers its interrupts by; none where KVM has the IOAPIC.
    pub fn msi_router(&self, mode: IrqchipMode) -> Option<Box<dyn MsiRouter>> {
        host::msi_router(&self.fd, mode)
    }

    /// What vCPUs are made in. All slots must be there by then.
    pub fn vcpu_setup(&self, plan: &Arc<Plan>, memory: &GuestMemoryMmap) -> VcpuSetup {
        VcpuSetup { vm: Arc::clone(&self.fd), plan: Arc::clone(plan), memory: memory.clone() }
    }
}

/// What vCPUs are made in.
pub struct VcpuSetup {
    vm: Arc<VmFd>,
    plan: Arc<Plan>,
    memory: GuestMemoryMmap,
}

/// Writes the boot structures and creates the vCPUs in the VM that comes; none if none comes.
pub fn make_vcpus(kvm: &Kvm, vcpu_setup: &Receiver<VcpuSetup>) -> Result<Vec<Vcpu>, KvmError> {
    let supported = host::supported(kvm)?;
    let Ok(VcpuSetup { vm, plan, memory }) = vcpu_setup.recv() else { return Ok(Vec::new()) };
    let boot = host::write_boot_structures(&plan, &memory)?;
    host::create_vcpus(&supported, &vm, &plan, boot)
}

/// A slot for this range of guest memory, which lies in one region.
fn memory_region(
    slot: u32,
    range: &Range<u64>,
    memory: &GuestMemoryMmap,
    flags: u32,
) -> Result<kvm_userspace_memory_region, KvmError> {
    let host = memory
        .get_host_address(GuestAddress(range.start))
        .map_err(|source| KvmError::Slot { start: range.start, source })?;
    Ok(kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr: range.start,
        memory_size: range.end - range.start,
        userspace_addr: host as u64,
    })
}

fn set_memory_region(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), KvmError> {
    // SAFETY: a slot lies in one region of guest memory; its owner keeps that mapped until all vCPUs or the
    // slot are gone.
    unsafe { vm.set_user_memory_region(region) }.map_err(|source| KvmError::Call {
        call: "KVM_SET_USER_MEMORY_REGION",
        detail: format!(" for {:#x} bytes at {:#x}", region.memory_size, region.guest_phys_addr),
        source,
    })
}

/// A signal must not end what is only being set up.
fn retry_interrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}
