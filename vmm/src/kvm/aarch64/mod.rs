//! KVM on aarch64. PSCI is KVM's own (version 0.2 or later): it starts and stops vCPUs without the monitor, which sees
//! power-off and reset only.

mod death;
mod gic;
mod vcpu;

use std::ops::Range;

use carpel_arch::map::{Arch, Gic, RowName};
use kvm_bindings::KVM_CAP_STEAL_TIME;
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::errno::Error as Errno;

pub use death::{explain, is_halted, virtual_map_registers};
pub use vcpu::{create_vcpus, supported};

pub use crate::boot::aarch64::write as write_boot_structures;
use crate::kvm::error::{KvmError, retry_interrupted};
use crate::plan::Plan;

/// What a machine needs of KVM, by the name in its documentation.
pub const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::DeviceCtrl, "KVM_CAP_DEVICE_CTRL"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::OneReg, "KVM_CAP_ONE_REG"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::ArmPsci02, "KVM_CAP_ARM_PSCI_0_2"),
];

/// Guest physical address bits: the size of an intermediate physical address; what most hosts have where KVM cannot be
/// asked, which then is an error of its own.
pub fn phys_bits() -> u8 {
    let limit = Kvm::new().ok().as_ref().and_then(limit);
    limit.unwrap_or(Arch::Aarch64.default_phys_bits())
}

/// The newest interrupt controller that KVM emulates, which it tells of a VM only: an empty one, closed at once. None where
/// there is no VM, which then is an error of its own.
pub fn newest_gic() -> Option<Gic> {
    let vm = retry_interrupted(|| Kvm::new()?.create_vm()).ok()?;
    Some(if gic::has_v3(&vm) { Gic::V3 } else { Gic::V2 })
}

/// Before KVM_CAP_ARM_VM_IPA_SIZE, there were 40 bits.
fn limit(kvm: &Kvm) -> Option<u8> {
    u8::try_from(kvm.get_host_ipa_limit()).ok().filter(|&bits| bits > 0)
}

/// Creates a VM of KVM's with as many address bits as the plan was made for.
pub fn create_vm(kvm: &Kvm, plan: &Plan) -> Result<VmFd, Errno> {
    match limit(kvm) {
        Some(_) => kvm.create_vm_with_ipa_size(plan.phys_bits.into()),
        None => kvm.create_vm_with_type(0),
    }
}

/// Memory that KVM shares with the guest besides RAM: where it tells vCPUs of the time that the host took from them
/// (Linux, Documentation/virt/kvm/arm/pvtime.rst), where both the map and KVM have that.
pub fn shared_memory(vm: &VmFd, plan: &Plan) -> Option<Range<u64>> {
    let region = plan.map.region(RowName::Pvtime)?;
    (vm.check_extension_raw(KVM_CAP_STEAL_TIME.into()) > 0).then(|| region.range())
}

/// It comes with the vCPUs.
#[expect(clippy::unnecessary_wraps, reason = "on other architectures, KVM may refuse")]
pub const fn create_irqchip(_vm: &VmFd, _plan: &Plan) -> Result<(), KvmError> {
    Ok(())
}

/// KVM needs EL2, so where it is there is hardware virtualization.
pub const fn has_hardware_virtualization() -> bool {
    true
}
