//! The interrupt controller, which KVM emulates wholly. Source: Linux, Documentation/virt/kvm/devices/arm-vgic.rst and
//! arm-vgic-v3.rst.

use carpel_arch::aarch64::gic::GicMap;
use carpel_arch::map::Gic;
use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
    KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};
use vmm_sys_util::errno::Error as Errno;

use crate::kvm::error::KvmError;
use crate::plan::Plan;

/// Interrupts of the controller: 32 that each vCPU has of its own, and the 64 SPIs that the layouts number devices from.
const INTERRUPTS: u32 = 32 + 64;

/// Whether KVM on this host emulates GICv3.
pub fn has_v3(vm: &VmFd) -> bool {
    device(vm, Gic::V3).is_ok()
}

/// Creates the controller of the plan. It must come after the vCPUs, for its initialization fixes their number.
pub fn create(vm: &VmFd, plan: &Plan) -> Result<(), KvmError> {
    let gic = GicMap::of(&plan.map).ok_or(KvmError::NoGic)?;
    let fd = device(vm, gic.version).map_err(|source| KvmError::Call {
        call: "KVM_CREATE_DEVICE",
        detail: format!(" for {}", plan.irqchip.name()),
        source,
    })?;
    let (distributor, cpu) = match gic.version {
        Gic::V2 => (KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V2_ADDR_TYPE_CPU),
        Gic::V3 => (KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST),
    };
    set(&fd, KVM_DEV_ARM_VGIC_GRP_ADDR, distributor, Some(&gic.distributor.start))?;
    set(&fd, KVM_DEV_ARM_VGIC_GRP_ADDR, cpu, Some(&gic.cpu.start))?;
    set(&fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, Some(&INTERRUPTS))?;
    set::<u64>(&fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, None)
}

fn device(vm: &VmFd, version: Gic) -> Result<DeviceFd, Errno> {
    let type_ = match version {
        Gic::V2 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
        Gic::V3 => kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
    };
    vm.create_device(&mut kvm_create_device { type_, ..Default::default() })
}

/// Sets an attribute, whose value KVM reads from memory.
fn set<T>(fd: &DeviceFd, group: u32, attribute: u32, value: Option<&T>) -> Result<(), KvmError> {
    let addr = value.map_or(0, |value| std::ptr::from_ref(value) as u64);
    let attribute = kvm_device_attr { group, attr: attribute.into(), addr, flags: 0 };
    fd.set_device_attr(&attribute).map_err(|source| KvmError::Call {
        call: "KVM_SET_DEVICE_ATTR",
        detail: format!(" for attribute {} of group {group} of the GIC", attribute.attr),
        source,
    })
}
