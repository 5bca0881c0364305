//! KVM on x86-64.

mod cpuid;
mod death;
mod irqchip;
mod vcpu;

use std::arch::x86_64::__cpuid;
use std::ops::Range;

use carpel_arch::map::Gic;
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::errno::Error as Errno;

pub use death::{explain, is_halted, virtual_map_registers};
pub use irqchip::create as create_irqchip;
pub use vcpu::{create_vcpus, supported};

pub use crate::boot::x86_64::write as write_boot_structures;
use crate::plan::Plan;

/// What a machine needs of KVM, by the name in its documentation.
pub const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];

/// Guest physical address bits, which are the host's: CPUID 0x8000_0008, EAX bits 7-0 (Intel SDM volume 2, CPUID).
pub fn phys_bits() -> u8 {
    const ADDRESS_SIZES: u32 = 0x8000_0008;
    const SMALLEST: u8 = 36;
    let max_leaf = __cpuid(0x8000_0000).eax;
    if max_leaf < ADDRESS_SIZES { SMALLEST } else { __cpuid(ADDRESS_SIZES).eax as u8 }
}

/// There is no GIC on a PC.
pub const fn newest_gic() -> Option<Gic> {
    None
}

/// Memory that KVM shares with the guest besides RAM: none here.
pub const fn shared_memory(_vm: &VmFd, _plan: &Plan) -> Option<Range<u64>> {
    None
}

/// Creates a VM of KVM's.
pub fn create_vm(kvm: &Kvm, _plan: &Plan) -> Result<VmFd, Errno> {
    kvm.create_vm()
}

/// Whether the processor offers the virtualization that KVM needs to run a guest natively: VMX (CPUID 1, ECX bit 5) or
/// SVM (CPUID 0x8000_0001, ECX bit 2).
pub fn has_hardware_virtualization() -> bool {
    let vmx = __cpuid(1).ecx & 1 << 5 != 0;
    let svm = __cpuid(0x8000_0000).eax >= 0x8000_0001 && __cpuid(0x8000_0001).ecx & 1 << 2 != 0;
    vmx || svm
}
