//! The interrupt controllers of a PC, split between KVM and the monitor or wholly in KVM.

use carpel_arch::map::RowName;
use carpel_devices::legacy::ioapic::PINS;
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_pit_config};
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
