//! One vCPU of KVM's: running it, and translating its exits.

use carpel_arch::VirtualMapRegisters;
use carpel_devices::event::GuestEvent;
use kvm_bindings::{KVM_MP_STATE_RUNNABLE, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::errno::Error as Errno;

use super::death::Death;
use super::host;
use crate::exit::Exit;

/// A vCPU that is ready to run.
pub struct Vcpu {
    /// Its number, from 0.
    pub id: u32,
    fd: VcpuFd,
    /// KVM_RUN said EAGAIN when it was entered last, though the vCPU was runnable.
    put_off: bool,
}

/// Why KVM_RUN returned, without what the exit carries.
enum Left {
    Port,
    Mmio,
    EndOfInterrupt(u8),
    Firmware(GuestEvent),
    Interrupted,
    Dead(Death),
    Refused(Errno),
}

impl Vcpu {
    /// Wraps KVM's vCPU number `id`.
    pub(super) const fn new(id: u32, fd: VcpuFd) -> Self {
        Self { id, fd, put_off: false }
    }

    /// Enters the guest until it exits. What a read gets must be in place when it is entered again.
    pub fn run(&mut self) -> Exit<'_> {
        let was_put_off = std::mem::replace(&mut self.put_off, false);
        let left = match self.fd.run() {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Left::Port,
            Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => Left::Mmio,
            Ok(VcpuExit::IoapicEoi(vector)) => Left::EndOfInterrupt(vector),
            Ok(VcpuExit::SystemEvent(kind, _)) => system_event(kind),
            Ok(VcpuExit::Intr) => Left::Interrupted,
            Ok(VcpuExit::Shutdown) => Left::Dead(Death::Shutdown),
            Ok(VcpuExit::FailEntry(reason, _)) => Left::Dead(Death::FailEntry(reason)),
            Ok(VcpuExit::InternalError) => Left::Dead(Death::InternalError),
            Ok(other) => Left::Dead(Death::Unexpected(format!("KVM left the guest for {other:?}"))),
            Err(error) if error.errno() == libc::EINTR => Left::Interrupted,
            // Once of a vCPU that waits to be started; of a runnable one again and again, where the host has no thread for KVM.
            Err(error) if error.errno() == libc::EAGAIN => {
                self.put_off = self.is_runnable();
                if self.put_off && was_put_off { Left::Refused(error) } else { Left::Interrupted }
            }
            Err(error) if error.errno() == libc::ENOMEM => Left::Refused(error),
            Err(error) => Left::Dead(Death::Unexpected(format!("KVM_RUN failed: {error}"))),
        };
        match left {
            Left::Port => self.port_exit(),
            Left::Mmio => self.mmio_exit(),
            Left::EndOfInterrupt(vector) => Exit::EndOfInterrupt(vector),
            Left::Firmware(event) => Exit::Firmware(event),
            Left::Interrupted => Exit::Interrupted,
            Left::Dead(death) => {
                let reason = host::explain(self.id, &mut self.fd, &death);
                if matches!(death, Death::Shutdown) { Exit::TripleFault(reason) } else { Exit::Dead(reason) }
            }
            Left::Refused(error) => Exit::Refused(format!("vCPU {} cannot go on: KVM_RUN failed: {error}", self.id)),
        }
    }

    /// Whether it would run if it was entered: it waits for no other vCPU to start it.
    fn is_runnable(&self) -> bool {
        self.fd.get_mp_state().is_ok_and(|state| state.mp_state == KVM_MP_STATE_RUNNABLE)
    }

    /// Whether it is halted for good: nothing but another vCPU or a reset can make it run again.
    pub fn is_halted(&self) -> bool {
        host::is_halted(&self.fd)
    }

    /// The registers that decide about its virtual map, where that can be read.
    pub fn virtual_map_registers(&self) -> Option<VirtualMapRegisters> {
        host::virtual_map_registers(&self.fd)
    }

    fn port_exit(&mut self) -> Exit<'_> {
        let run = self.fd.get_kvm_run();
        // SAFETY: the last exit was KVM_EXIT_IO, for which KVM fills this member of the union.
        let io = unsafe { run.__bindgen_anon_1.io };
        let (port, size) = (io.port, usize::from(io.size));
        let start = std::ptr::from_mut(run).cast::<u8>();
        // SAFETY: KVM places `count` items of `size` bytes at `data_offset`, inside the mapping that starts with
        // kvm_run, and touches them only in KVM_RUN, which the borrow of `self` prevents meanwhile.
        let data =
            unsafe { std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), size * io.count as usize) };
        match u32::from(io.direction) {
            kvm_bindings::KVM_EXIT_IO_IN => Exit::PortRead { port, size, data },
            _ => Exit::PortWrite { port, size, data },
        }
    }

    fn mmio_exit(&mut self) -> Exit<'_> {
        // SAFETY: the last exit was KVM_EXIT_MMIO, for which KVM fills this member of the union.
        let mmio = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.mmio };
        let (address, length) = (mmio.phys_addr, mmio.data.len().min(mmio.len as usize));
        let data = &mut mmio.data[..length];
        if mmio.is_write == 0 { Exit::MmioRead { address, data } } else { Exit::MmioWrite { address, data } }
    }
}

/// What the guest asked KVM's firmware interface for (PSCI on Arm, the SBI on RISC-V).
fn system_event(kind: u32) -> Left {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => Left::Firmware(GuestEvent::PowerOff),
        KVM_SYSTEM_EVENT_RESET => Left::Firmware(GuestEvent::Reset),
        KVM_SYSTEM_EVENT_CRASH => Left::Firmware(GuestEvent::Panicked),
        kind => Left::Dead(Death::Unexpected(format!("KVM left the guest for system event {kind}"))),
    }
}
