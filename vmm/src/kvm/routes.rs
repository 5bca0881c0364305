//! KVM's table of interrupt routes: what a GSI's irqfd delivers (Linux, Documentation/virt/kvm/api.rst, KVM_SET_GSI_ROUTING).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use carpel_devices::legacy::ioapic::{Msi, MsiRouter};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::VmFd;

/// The table's one owner: KVM takes it only as a whole, so whoever routes an interrupt does it here.
pub struct Routes {
    vm: Arc<VmFd>,
    messages: Mutex<BTreeMap<u32, Msi>>,
}

impl Routes {
    /// A table without routes of the monitor's. KVM is told of none before the first comes.
    pub const fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, messages: Mutex::new(BTreeMap::new()) }
    }

    /// Has the GSI deliver this message, or nothing.
    pub fn set(&self, gsi: u32, message: Option<Msi>) -> Result<(), String> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Some(message) => messages.insert(gsi, message),
            None => messages.remove(&gsi),
        };
        let entries: Vec<_> = messages.iter().map(|(&gsi, message)| entry(gsi, message)).collect();
        let routing = KvmIrqRouting::from_entries(&entries).map_err(|error| format!("{error:?}"))?;
        self.vm.set_gsi_routing(&routing).map_err(|error| error.to_string())
    }
}

fn entry(gsi: u32, message: &Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

/// The pins of the monitor's IOAPIC, each of which is the GSI of its number.
pub struct IoapicPins(pub Arc<Routes>);

impl MsiRouter for IoapicPins {
    fn route(&mut self, pin: u8, message: Option<Msi>) {
        // A guest can program a message that KVM refuses; the interrupt is then the guest's loss.
        if let Err(error) = self.0.set(pin.into(), message) {
            log::debug!("Pin {pin} of the IOAPIC is not routed: {error}");
        }
    }
}
