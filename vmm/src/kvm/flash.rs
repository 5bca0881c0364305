//! Memory that the guest reads by itself, or through its device: the array of flash chips.

use std::ops::Range;
use std::sync::Arc;

use carpel_devices::legacy::cfi_flash::FlashArray;
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryMmap;

use super::error::KvmError;
use super::{memory_region, set_memory_region};
use crate::memory::{Backing, GuestRam};

/// The memory and its slot, which is there as long as the guest reads by itself.
pub struct FlashSlot {
    vm: Arc<VmFd>,
    region: kvm_userspace_memory_region,
    ram: GuestRam,
}

impl FlashSlot {
    /// Memory in this slot.
    pub(super) fn new(vm: Arc<VmFd>, slot: u32, range: &Range<u64>) -> Result<Self, KvmError> {
        let ram = GuestRam::new(std::slice::from_ref(range), Backing::default())?;
        let region = memory_region(slot, range, ram.memory(), KVM_MEM_READONLY)?;
        set_memory_region(&vm, region)?;
        Ok(Self { vm, region, ram })
    }
}

impl FlashArray for FlashSlot {
    fn memory(&self) -> &GuestMemoryMmap {
        self.ram.memory()
    }

    fn show(&mut self, shown: bool) {
        // A slot of no size is none.
        let memory_size = if shown { self.region.memory_size } else { 0 };
        if let Err(error) = set_memory_region(&self.vm, kvm_userspace_memory_region { memory_size, ..self.region }) {
            log::warn!("The flash cannot be switched: {error}");
        }
    }
}

impl Drop for FlashSlot {
    /// The slot goes before its memory does.
    fn drop(&mut self) {
        self.show(false);
    }
}
