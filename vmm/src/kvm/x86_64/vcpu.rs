//! Setting up vCPUs: features, model-specific registers, local APIC, boot state.

use carpel_arch::x86_64::boot::{BootCpu, Segment, TableRegister};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use super::cpuid;
use crate::kvm::error::{Context as _, KvmError};
use crate::plan::Plan;

/// `IA32_MISC_ENABLE`, with fast string operations, which firmware turns on (Intel SDM volume 4, table 2-2).
const MISC_ENABLE: (u32, u64) = (0x1A0, 1);
/// `IA32_MTRR_DEF_TYPE`, enabled with write-back as the default, which firmware would have set up for RAM: without it
/// Linux takes all memory for uncacheable (Intel SDM volume 3, section 12.11.2.1).
const MTRR_DEF_TYPE: (u32, u64) = (0x2FF, 1 << 11 | 6);

/// Offsets of local vector table entries in the local APIC's page (Intel SDM volume 3, table 11-1).
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
/// Delivery modes of a local vector table entry (Intel SDM volume 3, figure 11-8).
const MODE_NMI: u32 = 0b100 << 8;
const MODE_EXTINT: u32 = 0b111 << 8;

/// What KVM can show of the host's processor. It takes KVM longer than all but creating a VM.
pub fn supported(kvm: &Kvm) -> Result<CpuId, KvmError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).call("KVM_GET_SUPPORTED_CPUID")
}

/// Creates the vCPUs. The first is in the state that the boot structures are for; the others wait for their start-up
/// interrupt.
pub fn create_vcpus(supported: &CpuId, vm: &VmFd, plan: &Plan, boot: Option<BootCpu>) -> Result<Vec<VcpuFd>, KvmError> {
    let tsc_deadline = vm.check_extension(Cap::TscDeadlineTimer);
    let missing = cpuid::missing(supported.as_slice(), tsc_deadline, &plan.cpu);
    if !missing.is_empty() {
        return Err(KvmError::Features(missing.join(", ")));
    }
    (0..plan.vcpus)
        .map(|id| {
            let fd = vm.create_vcpu(id.into()).call("KVM_CREATE_VCPU")?;
            let features = cpuid::features(supported.as_slice(), id, plan.topology, tsc_deadline, &plan.cpu);
            set_up(&fd, &features, boot.as_ref().filter(|_| id == 0))?;
            Ok(fd)
        })
        .collect()
}

fn set_up(fd: &VcpuFd, features: &[kvm_cpuid_entry2], boot: Option<&BootCpu>) -> Result<(), KvmError> {
    let features = CpuId::from_entries(features).map_err(|error| KvmError::Registers(format!("{error:?}")))?;
    // Before anything else: KVM takes model-specific registers only of features that the vCPU has.
    fd.set_cpuid2(&features).call("KVM_SET_CPUID2")?;
    let msrs = [MISC_ENABLE, MTRR_DEF_TYPE].map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&msrs).map_err(|error| KvmError::Registers(format!("{error:?}")))?;
    let set = fd.set_msrs(&msrs).call("KVM_SET_MSRS")?;
    if set < msrs.as_slice().len() {
        log::debug!("KVM does not know MSR {:#x}", msrs.as_slice()[set].index);
    }
    set_local_apic(fd)?;
    boot.map_or(Ok(()), |boot| set_registers(fd, boot))
}

/// Virtual wire mode (Intel MP specification 1.4, section 3.6.2.2): PIC interrupts and NMIs pass the local APIC.
fn set_local_apic(fd: &VcpuFd) -> Result<(), KvmError> {
    let mut apic = fd.get_lapic().call("KVM_GET_LAPIC")?;
    for (offset, value) in [(APIC_LVT_LINT0, MODE_EXTINT), (APIC_LVT_LINT1, MODE_NMI)] {
        for (byte, value) in apic.regs[offset..offset + 4].iter_mut().zip(value.to_le_bytes()) {
            *byte = value.cast_signed();
        }
    }
    fd.set_lapic(&apic).call("KVM_SET_LAPIC")
}

fn set_registers(fd: &VcpuFd, boot: &BootCpu) -> Result<(), KvmError> {
    let BootCpu { rip, rsp, rax, rbx, rsi, rflags, .. } = *boot;
    let regs = kvm_regs { rip, rsp, rax, rbx, rsi, rflags, ..Default::default() };
    fd.set_regs(&regs).call("KVM_SET_REGS")?;
    let mut sregs = fd.get_sregs().call("KVM_GET_SREGS")?;
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (boot.cr0, boot.cr3, boot.cr4, boot.efer);
    (sregs.cs, sregs.tr) = (segment(&boot.code), segment(&boot.task));
    let data = segment(&boot.data);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.gdt, sregs.idt) = (table(&boot.gdt), table(&boot.idt));
    fd.set_sregs(&sregs).call("KVM_SET_SREGS")
}

fn segment(segment: &Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.type_,
        present: segment.present.into(),
        dpl: segment.dpl,
        db: segment.db.into(),
        s: segment.s.into(),
        l: segment.l.into(),
        g: segment.g.into(),
        avl: segment.avl.into(),
        unusable: (!segment.present).into(),
        padding: 0,
    }
}

fn table(table: &TableRegister) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, ..Default::default() }
}
