//! Why a vCPU cannot go on, in words, with registers where the hardware still has them.

use std::fmt::Write as _;

use carpel_arch::VirtualMapRegisters;
use carpel_arch::x86_64::paging::Registers;
use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED, kvm_run,
};
use kvm_ioctls::VcpuFd;

use crate::kvm::death::Death;

const RFLAGS_IF: u64 = 1 << 9;
/// Where a vCPU starts after INIT (Intel SDM volume 3, table 10-1).
const RESET_RIP: u64 = 0xFFF0;
const RESET_CS_BASE: u64 = 0xFFFF_0000;

/// A message for vCPU `id`.
pub fn explain(id: u32, fd: &mut VcpuFd, death: &Death) -> String {
    let mut message = match death {
        Death::Shutdown => format!("vCPU {id} shut down: a triple fault"),
        Death::FailEntry(reason) => format!("vCPU {id} cannot enter the guest: hardware reason {reason:#x}"),
        Death::InternalError => internal_error(id, fd.get_kvm_run()),
        Death::Unexpected(what) => format!("vCPU {id} cannot go on: {what}"),
    };
    if let Some(registers) = registers(fd) {
        message.push_str(&registers);
    } else {
        message.push_str("; the hardware did not keep its registers");
    }
    message
}

/// Whether no interrupt can wake it: halted with interrupts disabled, or an application processor that was never started.
pub fn is_halted(fd: &VcpuFd) -> bool {
    match fd.get_mp_state().map(|state| state.mp_state) {
        Ok(KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED) => true,
        Ok(KVM_MP_STATE_HALTED) => fd.get_regs().is_ok_and(|regs| regs.rflags & RFLAGS_IF == 0),
        _ => false,
    }
}

/// The registers that decide about its virtual map.
pub fn virtual_map_registers(fd: &VcpuFd) -> Option<VirtualMapRegisters> {
    let sregs = fd.get_sregs().ok()?;
    let registers = Registers { cr0: sregs.cr0, cr3: sregs.cr3, cr4: sregs.cr4, efer: sregs.efer };
    Some(VirtualMapRegisters::X86_64(registers))
}

fn internal_error(id: u32, run: &mut kvm_run) -> String {
    // SAFETY: the last exit was KVM_EXIT_INTERNAL_ERROR, for which KVM fills this member of the union; its members,
    // and those of `emulation_failure`, are integers for which any bytes are a value.
    let (suberror, failure) =
        unsafe { (run.__bindgen_anon_1.internal.suberror, run.__bindgen_anon_1.emulation_failure) };
    if suberror != KVM_INTERNAL_ERROR_EMULATION {
        return format!("vCPU {id}: KVM internal error, suberror {suberror}");
    }
    let mut message = format!("vCPU {id}: KVM cannot emulate an instruction (internal error, suberror {suberror})");
    // `ndata` counts the 64-bit words that follow it: the flags, then the instruction's size and bytes.
    let has_bytes =
        failure.ndata >= 3 && failure.flags & u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0;
    if has_bytes {
        // SAFETY: the flag says that this member of the union is valid.
        let instruction = unsafe { failure.__bindgen_anon_1.__bindgen_anon_1 };
        let size = usize::from(instruction.insn_size).min(instruction.insn_bytes.len());
        message.push_str(", bytes");
        for byte in &instruction.insn_bytes[..size] {
            // Writing to a String cannot fail.
            let _ = write!(message, " {byte:02x}");
        }
    }
    if !super::has_hardware_virtualization() {
        message.push_str(
            "; KVM on this host has no hardware virtualization (vmx or svm) and emulates every instruction, too few \
             of them for Linux: use a host with VT-x or AMD-V, or enable nested virtualization",
        );
    }
    message
}

/// The registers in lines of their own; none if they are those of a vCPU after INIT, which AMD hosts show after a
/// shutdown, or cannot be read.
fn registers(fd: &VcpuFd) -> Option<String> {
    let (regs, sregs) = (fd.get_regs().ok()?, fd.get_sregs().ok()?);
    if regs.rip == RESET_RIP && sregs.cs.base == RESET_CS_BASE {
        return None;
    }
    let general = [
        [("rip", regs.rip), ("rsp", regs.rsp), ("rflags", regs.rflags), ("rax", regs.rax)],
        [("rbx", regs.rbx), ("rcx", regs.rcx), ("rdx", regs.rdx), ("rsi", regs.rsi)],
        [("rdi", regs.rdi), ("rbp", regs.rbp), ("r8", regs.r8), ("r9", regs.r9)],
        [("r10", regs.r10), ("r11", regs.r11), ("r12", regs.r12), ("r13", regs.r13)],
        [("r14", regs.r14), ("r15", regs.r15), ("cr0", sregs.cr0), ("cr2", sregs.cr2)],
        [("cr3", sregs.cr3), ("cr4", sregs.cr4), ("efer", sregs.efer), ("cs", sregs.cs.selector.into())],
    ];
    let mut text = String::new();
    for line in general {
        text.push_str("\n ");
        for (name, value) in line {
            let _ = write!(text, " {name:>6} {value:016x}");
        }
    }
    Some(text)
}
