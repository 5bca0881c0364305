//! Everything that talks to KVM, and all that differs between host architectures.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod abilities;
mod death;
mod error;
mod flash;
mod host;
mod routes;
mod slots;
mod vcpu;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use carpel_devices::interrupt::IrqLine;
use carpel_devices::legacy::ioapic::MsiRouter;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

pub use abilities::Abilities;
pub use error::{DEVICE, KvmError};
pub use flash::FlashSlot;
pub use host::{newest_gic, phys_bits};
pub use vcpu::Vcpu;

use crate::config::IrqchipMode;
use crate::memory::{Backing, GuestRam};
use crate::plan::Plan;
use error::{API_VERSION, Context as _, retry_interrupted};
use routes::{IoapicPins, Routes};
use slots::Slots;

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
    routes: Arc<Routes>,
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
        let fd = Arc::new(fd);
        let routes = Arc::new(Routes::new(Arc::clone(&fd)));
        let mut vm = Self { fd, slots: Slots::default(), routes, shared: None };
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
        let pins = || Box::new(IoapicPins(Arc::clone(&self.routes))) as Box<dyn MsiRouter>;
        (mode == IrqchipMode::Split).then(pins)
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
    let fds = host::create_vcpus(&supported, &vm, &plan, boot)?;
    Ok((0..).zip(fds).map(|(id, fd)| Vcpu::new(id, fd)).collect())
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
