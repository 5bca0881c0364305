//! The vCPUs' threads.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use carpel_arch::x86_64::paging::Registers;
use carpel_devices::event::EventSink as _;
use kvm_ioctls::Kvm;
use serde::Serialize;
use thiserror::Error;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::exit::{Buses, Exit, Next, dispatch};
use crate::kvm::{self, KvmError, Vcpu, VcpuSetup};
use crate::outcome::{Outcome, Shutdown};
use crate::run::reserve_signals;

/// Between two signals to a thread that has not left the guest yet: the first may come just before KVM_RUN.
const KICK_INTERVAL: Duration = Duration::from_micros(50);

/// How often to give way to a thread that is about to end, before sleeping.
const YIELDS: u32 = 64;

/// The running vCPUs.
pub struct VcpuThreads(Vec<VcpuThread>);

struct VcpuThread {
    handle: JoinHandle<()>,
    status: Arc<Status>,
}

/// What a vCPU's thread shares with the main thread.
#[derive(Default)]
struct Status {
    port: AtomicU64,
    mmio: AtomicU64,
    other: AtomicU64,
    /// Counts how often the main thread asked whether the vCPU is halted, ...
    asked: AtomicU32,
    /// ... the question that was answered last, ...
    answered: AtomicU32,
    /// ... and the answer.
    halted: AtomicBool,
    /// The registers of its virtual map, as of the last answer or of its end.
    registers: Mutex<Option<Registers>>,
}

/// What vCPUs leave behind.
#[derive(Clone, Debug, Default)]
pub struct ExitStatistics {
    /// How often they left the guest, all together.
    pub exits: ExitCounts,
    /// The registers of each one's virtual map.
    pub registers: Vec<Option<Registers>>,
}

/// How often vCPUs left the guest.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ExitCounts {
    /// For a port.
    pub port: u64,
    /// For memory-mapped I/O.
    pub mmio: u64,
    /// For anything else, signals of our own included.
    pub other: u64,
}

/// vCPUs that are being made, in the thread of the first one: meanwhile the main thread makes what is around them. When
/// dropped, they are gone, and nothing of them uses the guest's memory any more.
pub struct NewVcpus {
    /// Where they get the VM, once.
    vcpu_setup: Option<SyncSender<VcpuSetup>>,
    /// Without it, the thread ends.
    go: Option<SyncSender<VcpuContext>>,
    /// Where all but the first come, once.
    made: Option<Receiver<Result<Vec<Vcpu>, KvmError>>>,
    first: Option<VcpuThread>,
    others: Vec<Vcpu>,
}

/// Why vCPUs do not run.
#[derive(Debug, Error)]
pub enum StartError {
    /// One could not be made.
    #[error("Cannot build the machine")]
    Vcpu(#[from] KvmError),
    /// The host gives no more threads, or no memory for them.
    #[error("Cannot start the vCPUs' threads")]
    Thread(#[from] io::Error),
}

/// What a vCPU works with when it runs.
#[derive(Clone)]
struct VcpuContext {
    buses: Arc<Buses>,
    shutdown: Arc<Shutdown>,
}

impl NewVcpus {
    /// Starts the first one's thread, before there is a VM: threads take their time to start.
    pub fn start(kvm: Arc<Kvm>) -> io::Result<Self> {
        extern "C" fn interrupt_system_call(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        register_signal_handler(SIGRTMIN(), interrupt_system_call)?;
        // Threads inherit that these are for the main thread alone.
        reserve_signals()?;
        share_one_heap();
        let (send, vcpu_setup) = sync_channel(1);
        let (go, context) = sync_channel::<VcpuContext>(1);
        let (tell, result) = sync_channel(1);
        let first = VcpuThread::start(0, move |status| {
            let mut first = None;
            let vcpus = kvm::make_vcpus(&kvm, &vcpu_setup).map(|mut vcpus| {
                first = (!vcpus.is_empty()).then(|| vcpus.remove(0));
                vcpus
            });
            let told = tell.send(vcpus);
            if let (Ok(()), Some(first), Ok(context)) = (told, first, context.recv()) {
                run(first, &context, status);
            }
        })?;
        Ok(Self { vcpu_setup: Some(send), go: Some(go), made: Some(result), first: Some(first), others: Vec::new() })
    }

    /// Gives them the VM that they are made in.
    pub fn build_on(&mut self, vcpu_setup: VcpuSetup) {
        // If they failed before, that is told when they are to run.
        let _ = self.vcpu_setup.take().map(|sender| sender.send(vcpu_setup));
    }

    /// Waits until all are made.
    fn made(&mut self) -> Result<(), KvmError> {
        if let Some(Ok(others)) = self.made.take().map(|made| made.recv()) {
            self.others = others?;
        }
        Ok(())
    }
}

impl Drop for NewVcpus {
    fn drop(&mut self) {
        self.vcpu_setup = None;
        self.go = None;
        if let Some(VcpuThread { handle, .. }) = self.first.take() {
            // A panic ended the whole process.
            let _ = handle.join();
        }
    }
}

impl VcpuThreads {
    /// Lets the vCPUs run, each in a thread named after it.
    pub fn start(mut vcpus: NewVcpus, buses: &Arc<Buses>, shutdown: &Arc<Shutdown>) -> Result<Self, StartError> {
        let context = VcpuContext { buses: Arc::clone(buses), shutdown: Arc::clone(shutdown) };
        // Nothing waits for the others, so the first one starts as soon as it can. If it cannot, that is told below.
        let _ = vcpus.go.take().map(|go| go.send(context.clone()));
        vcpus.made()?;
        let mut threads = Self(vcpus.first.take().into_iter().collect());
        for vcpu in vcpus.others.drain(..) {
            let context = context.clone();
            match VcpuThread::start(vcpu.id, move |status| run(vcpu, &context, status)) {
                Ok(thread) => threads.0.push(thread),
                Err(error) => {
                    shutdown.end(Outcome::Failed(format!("Cannot start a vCPU's thread: {error}")));
                    threads.join();
                    return Err(error.into());
                }
            }
        }
        Ok(threads)
    }

    /// Asks all vCPUs whether they are halted for good, and returns whether all said so to the question before.
    pub fn ask_halted(&self) -> bool {
        let all_halted = self.0.iter().all(|thread| thread.status.is_halted());
        for thread in &self.0 {
            thread.status.asked.fetch_add(1, Ordering::Release);
            thread.kick();
        }
        all_halted
    }

    /// The registers of each vCPU's virtual map, as old as the last answer to [`Self::ask_halted`].
    pub fn registers(&self) -> Vec<Option<Registers>> {
        self.0.iter().map(|thread| thread.status.registers()).collect()
    }

    /// Waits for all threads to end. The run must have ended, so that they do.
    pub fn join(self) -> ExitStatistics {
        while self.0.iter().any(VcpuThread::is_running) {
            self.0.iter().filter(|thread| thread.is_running()).for_each(VcpuThread::kick);
            // Most leave at once, and sleeping takes longer than that.
            for _ in 0..YIELDS {
                thread::yield_now();
            }
            if self.0.iter().any(VcpuThread::is_running) {
                thread::sleep(KICK_INTERVAL);
            }
        }
        let mut statistics = ExitStatistics::default();
        for VcpuThread { handle, status } in self.0 {
            // A panic ended the whole process.
            let _ = handle.join();
            statistics.exits.port += status.port.load(Ordering::Relaxed);
            statistics.exits.mmio += status.mmio.load(Ordering::Relaxed);
            statistics.exits.other += status.other.load(Ordering::Relaxed);
            statistics.registers.push(status.registers());
        }
        statistics
    }
}

/// Keeps glibc from giving each thread a heap of its own at its first allocation, which would come between a vCPU and its
/// first instruction, and map 128 MiB to trim them to 64. vCPUs hardly allocate; small pieces are kept for each thread anyway.
fn share_one_heap() {
    // SAFETY: the call changes a parameter of the allocator's, under its own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

impl VcpuThread {
    fn start(id: u32, body: impl FnOnce(&Status) + Send + 'static) -> io::Result<Self> {
        let status = Arc::<Status>::default();
        let shared = Arc::clone(&status);
        let handle = thread::Builder::new().name(format!("vcpu{id}")).spawn(move || body(&shared))?;
        Ok(Self { handle, status })
    }

    fn is_running(&self) -> bool {
        !self.handle.is_finished()
    }

    /// Makes it leave the guest, or a system call that blocks.
    fn kick(&self) {
        if let Err(error) = self.handle.kill(SIGRTMIN()) {
            log::debug!("Cannot signal a vCPU's thread: {error}");
        }
    }
}

fn run(mut vcpu: Vcpu, context: &VcpuContext, status: &Status) {
    let VcpuContext { buses, shutdown } = context;
    while !shutdown.ended() {
        status.answer(&vcpu);
        let exit = vcpu.run();
        status.count(&exit);
        match dispatch(exit, buses) {
            Next::Enter => {}
            Next::Report(event) => shutdown.event(event),
            Next::TripleFault(reason) => shutdown.triple_fault(reason),
            Next::Dead(reason) => shutdown.end(Outcome::Died(reason)),
        }
    }
    status.note_registers(&vcpu);
}

impl Status {
    fn answer(&self, vcpu: &Vcpu) {
        let asked = self.asked.load(Ordering::Acquire);
        if asked != self.answered.load(Ordering::Relaxed) {
            self.halted.store(vcpu.is_halted(), Ordering::Relaxed);
            self.note_registers(vcpu);
            self.answered.store(asked, Ordering::Release);
        }
    }

    fn note_registers(&self, vcpu: &Vcpu) {
        *self.registers.lock().unwrap_or_else(PoisonError::into_inner) = vcpu.paging();
    }

    fn registers(&self) -> Option<Registers> {
        *self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_halted(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        asked > 0 && self.answered.load(Ordering::Acquire) == asked && self.halted.load(Ordering::Relaxed)
    }

    fn count(&self, exit: &Exit<'_>) {
        let counter = match exit {
            Exit::PortRead { .. } | Exit::PortWrite { .. } => &self.port,
            Exit::MmioRead { .. } | Exit::MmioWrite { .. } => &self.mmio,
            Exit::EndOfInterrupt(_) | Exit::Firmware(_) | Exit::Interrupted | Exit::TripleFault(_) | Exit::Dead(_) => {
                &self.other
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
