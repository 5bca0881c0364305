//! Setting up vCPUs: features, paravirtual time, boot state.

use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_PVTIME_CTRL, KVM_ARM_VCPU_PVTIME_IPA, KVM_REG_ARM_CORE,
    KVM_REG_ARM64, KVM_REG_SIZE_U64, kvm_device_attr, kvm_vcpu_init, user_pt_regs,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::{gic, shared_memory};
use crate::boot::aarch64::BootCpu;
use crate::kvm::error::{Context as _, KvmError};
use crate::plan::Plan;

/// What a vCPU has of it, in bytes (Arm DEN0057, `struct pvclock_vcpu_stolen_time`, which is aligned to 64 bytes).
const PVTIME_SIZE: u64 = 64;
/// Exceptions masked, at EL1 with its own stack pointer: how Linux wants to be entered (Documentation/arm64/booting.rst).
const PSTATE_EL1H_DAIF: u64 = 0x3C5;

/// What vCPUs can be: KVM tells that of a VM only.
pub struct Supported;

/// Nothing without a VM.
pub const fn supported(_kvm: &Kvm) -> Result<Supported, KvmError> {
    Ok(Supported)
}

/// Creates the vCPUs, then the interrupt controller. The first vCPU is in the boot state; the others wait for PSCI's CPU_ON.
pub fn create_vcpus(_supported: &Supported, vm: &VmFd, plan: &Plan, boot: BootCpu) -> Result<Vec<VcpuFd>, KvmError> {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target).call("KVM_ARM_PREFERRED_TARGET")?;
    target.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    let pvtime = shared_memory(vm, plan).map(|range| range.start);
    let vcpus: Vec<_> = (0..plan.vcpus)
        .map(|id| {
            let fd = vm.create_vcpu(id.into()).call("KVM_CREATE_VCPU")?;
            let mut init = target;
            if id > 0 {
                init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
            }
            fd.vcpu_init(&init).call("KVM_ARM_VCPU_INIT")?;
            if let Some(base) = pvtime {
                set_pvtime(&fd, base + PVTIME_SIZE * u64::from(id))?;
            }
            if id == 0 {
                set_registers(&fd, &boot)?;
            }
            Ok(fd)
        })
        .collect::<Result<_, KvmError>>()?;
    gic::create(vm, plan)?;
    Ok(vcpus)
}

fn set_pvtime(fd: &VcpuFd, address: u64) -> Result<(), KvmError> {
    let attribute = kvm_device_attr {
        group: KVM_ARM_VCPU_PVTIME_CTRL,
        attr: KVM_ARM_VCPU_PVTIME_IPA.into(),
        addr: std::ptr::from_ref(&address) as u64,
        flags: 0,
    };
    fd.set_device_attr(&attribute).call("KVM_SET_DEVICE_ATTR for KVM_ARM_VCPU_PVTIME_IPA")
}

/// General registers that are not set here are zero after KVM_ARM_VCPU_INIT.
fn set_registers(fd: &VcpuFd, boot: &BootCpu) -> Result<(), KvmError> {
    let registers = [
        (core_register(std::mem::offset_of!(user_pt_regs, pstate)), PSTATE_EL1H_DAIF),
        (core_register(std::mem::offset_of!(user_pt_regs, pc)), boot.entry),
        (core_register(std::mem::offset_of!(user_pt_regs, regs)), boot.fdt),
    ];
    for (id, value) in registers {
        fd.set_one_reg(id, &value.to_le_bytes()).call("KVM_SET_ONE_REG")?;
    }
    Ok(())
}

/// KVM's number of a 64-bit core register, by its offset in bytes in `user_pt_regs` (Linux, Documentation/virt/kvm/api.rst,
/// "KVM_SET_ONE_REG"): such registers are numbered in units of four bytes.
pub const fn core_register(offset: usize) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / 4) as u64
}
