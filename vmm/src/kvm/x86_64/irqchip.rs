//! The interrupt controllers of a PC, split between KVM and the monitor or wholly in KVM.

use std::sync::Arc;

use carpel_arch::map::RowName;
use carpel_devices::legacy::ioapic::{Msi, MsiRouter, PINS};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_pit_config,
};
use kvm_ioctls::VmFd;

use crate::config::IrqchipMode;
use crate::kvm::error::{Context as _, KvmError};
use crate::plan::Plan;

/// Creates what the plan says, with KVM's private memory where the map has room for it. It must come before vCPUs.
pub fn create(vm: &VmFd, plan: &Plan) -> Result<(), KvmError> {
    let start = |name| plan.map.need_claim(name).map(|claim| claim.start);
    vm.set_identity_map_address(start(RowName::IdentityMap)?).call("KVM_SET_IDENTITY_MAP_ADDR")?;
    vm.set_tss_address(start(RowName::Tss)? as usize).call("KVM_SET_TSS_ADDR")?;
    match plan.irqchip {
        IrqchipMode::Split => {
            let mut cap = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
            cap.args[0] = PINS.into();
            vm.enable_cap(&cap).call("KVM_CAP_SPLIT_IRQCHIP")
        }
        // A plan for this architecture has no other.
        IrqchipMode::Full | IrqchipMode::GicV2 | IrqchipMode::GicV3 => {
            vm.create_irq_chip().call("KVM_CREATE_IRQCHIP")?;
            // With the dummy, KVM serves port 0x61, whose bits kernels wait for when they calibrate by the PIT.
            let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
            vm.create_pit2(pit).call("KVM_CREATE_PIT2")
        }
    }
}

/// What the monitor's IOAPIC delivers its interrupts by; none where KVM has the IOAPIC.
pub fn msi_router(vm: &Arc<VmFd>, mode: IrqchipMode) -> Option<Box<dyn MsiRouter>> {
    (mode == IrqchipMode::Split).then(|| Box::new(Router::new(Arc::clone(vm))) as Box<dyn MsiRouter>)
}

/// Delivers the interrupts of the monitor's IOAPIC: each pin is a GSI, whose MSI route KVM follows when an irqfd fires.
struct Router {
    vm: Arc<VmFd>,
    routes: [Option<Msi>; PINS as usize],
}

impl Router {
    /// Nothing is routed at the start.
    const fn new(vm: Arc<VmFd>) -> Self {
        Self { vm, routes: [None; PINS as usize] }
    }

    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let entry = |(gsi, msi): (usize, &Option<Msi>)| {
            let msi = (*msi)?;
            let mut entry = kvm_irq_routing_entry { gsi: gsi as u32, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
            entry.u.msi.address_lo = msi.address as u32;
            entry.u.msi.address_hi = (msi.address >> 32) as u32;
            entry.u.msi.data = msi.data;
            Some(entry)
        };
        self.routes.iter().enumerate().filter_map(entry).collect()
    }
}

impl MsiRouter for Router {
    fn route(&mut self, pin: u8, msi: Option<Msi>) {
        let Some(route) = self.routes.get_mut(usize::from(pin)) else { return };
        *route = msi;
        let routing = KvmIrqRouting::from_entries(&self.entries());
        // A guest can program a message that KVM refuses; the interrupt is then the guest's loss.
        if let Err(error) = routing
            .map_err(|error| format!("{error:?}"))
            .and_then(|routing| self.vm.set_gsi_routing(&routing).map_err(|error| error.to_string()))
        {
            log::debug!("Pin {pin} of the IOAPIC is not routed: {error}");
        }
    }
}
