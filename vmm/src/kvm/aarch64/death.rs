//! Why a vCPU cannot go on, in words, with registers.

use std::fmt::Write as _;

use carpel_arch::VirtualMapRegisters;
use kvm_bindings::{KVM_MP_STATE_STOPPED, user_pt_regs};
use kvm_ioctls::VcpuFd;

use super::vcpu::core_register;
use crate::kvm::death::Death;

/// A message for vCPU `id`.
pub fn explain(id: u32, fd: &mut VcpuFd, death: &Death) -> String {
    let mut message = match death {
        Death::Shutdown => format!("vCPU {id} shut down"),
        Death::FailEntry(reason) => format!("vCPU {id} cannot enter the guest: hardware reason {reason:#x}"),
        Death::InternalError => format!("vCPU {id}: KVM internal error"),
        // ENOSYS is how KVM says that an instruction accessed no memory in a way that hardware does not describe.
        Death::Unexpected(what) => format!("vCPU {id} cannot go on: {what}"),
    };
    message.push_str(&registers(fd));
    message
}

/// Whether only another vCPU could make it run again: PSCI has it off. A vCPU that waits with interrupts masked is not told from
/// one that will go on, because any interrupt that becomes pending ends the wait, masked or not; so a Linux that halts, and
/// spins, is a matter for --watchdog.
pub fn is_halted(fd: &VcpuFd) -> bool {
    fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_STOPPED)
}

/// The registers that decide about its virtual map, which is not read yet.
pub const fn virtual_map_registers(_fd: &VcpuFd) -> Option<VirtualMapRegisters> {
    None
}

/// The registers in lines of their own.
fn registers(fd: &VcpuFd) -> String {
    let named = [
        ("pc", std::mem::offset_of!(user_pt_regs, pc)),
        ("sp", std::mem::offset_of!(user_pt_regs, sp)),
        ("pstate", std::mem::offset_of!(user_pt_regs, pstate)),
    ];
    let general = (0..31).map(|number| (format!("x{number}"), number * size_of::<u64>()));
    let all = named.into_iter().map(|(name, offset)| (name.to_owned(), offset)).chain(general);
    let mut text = String::new();
    for (index, (name, offset)) in all.enumerate() {
        let mut value = [0; 8];
        if fd.get_one_reg(core_register(offset), &mut value).is_ok() {
            let separator = if index % 4 == 0 { "\n " } else { "" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator} {name:>6} {:016x}", u64::from_le_bytes(value));
        }
    }
    text
}
