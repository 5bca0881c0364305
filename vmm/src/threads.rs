//! The vCPUs' threads.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep, yield_now};
use std::time::{Duration, Instant};

use carpel_arch::VirtualMapRegisters;
use carpel_devices::event::EventSink as _;
use carpel_devices::thread;
use kvm_ioctls::Kvm;
use serde::Serialize;
use thiserror::Error;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::exit::{Buses, Exit, Next, dispatch};
use crate::kvm::{self, KvmError, Vcpu, VcpuSetup};
use crate::outcome::{Outcome, Shutdown};
use crate::signals;

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
    registers: Mutex<Option<VirtualMapRegisters>>,
}

/// What vCPUs leave behind.
#[derive(Clone, Debug, Default)]
pub struct ExitStatistics {
    /// How often they left the guest, all together.
    pub exits: ExitCounts,
    /// The registers of each one's virtual map.
    pub registers: Vec<Option<VirtualMapRegisters>>,
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

/// vCPUs whose threads start while there is no VM yet: threads take their time to start. The first one's makes all vCPUs and starts
/// the others' threads meanwhile, so that none runs before all are there.
pub struct StartingVcpus {
    /// Where they get the VM; without one, they end.
    vcpu_setup: SyncSender<VcpuSetup>,
    vcpus: NewVcpus,
}

/// vCPUs that are being made in their VM, while the main thread makes what is around them.
pub struct NewVcpus {
    /// Where each gets what it works with; without that, it ends.
    go: Vec<SyncSender<VcpuContext>>,
    threads: NewThreads,
}

/// The threads of vCPUs that do not run. When dropped, they are gone, and nothing of them uses the guest's memory any more: what
/// they wait for must be dropped before, or given to them.
struct NewThreads {
    /// Where those of all but the first come, once.
    made: Receiver<Made>,
    /// The first, and the others when they have come; none once they run.
    threads: Vec<VcpuThread>,
}

/// The threads of all vCPUs but the first, each of which has its vCPU if that could be made.
struct Made {
    threads: Vec<VcpuThread>,
    result: Result<(), StartError>,
}

/// A thread's end of what it waits for: its vCPU, and then what that works with.
struct Waiting {
    vcpu: Receiver<Vcpu>,
    go: Receiver<VcpuContext>,
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

impl StartingVcpus {
    /// Starts the threads of so many, one at least.
    pub fn start(kvm: Arc<Kvm>, count: u32) -> io::Result<Self> {
        extern "C" fn interrupt_system_call(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
        register_signal_handler(SIGRTMIN(), interrupt_system_call)?;
        // Threads inherit that these are for the main thread alone.
        signals::reserve()?;
        let (send, vcpu_setup) = sync_channel(1);
        let (report, made) = sync_channel(1);
        let (first_go, context) = sync_channel(1);
        let (mut go, others): (Vec<_>, Vec<_>) = (1..count).map(|_| sync_channel(1)).unzip();
        go.insert(0, first_go);
        let first = VcpuThread::start(0, move |status| {
            let (mut threads, mut first) = (Vec::new(), None);
            let result = start_others(others, &mut threads).and_then(|senders| {
                let mut vcpus = kvm::make_vcpus(&kvm, &vcpu_setup)?.into_iter();
                first = vcpus.next();
                // A thread takes its vCPU at any time.
                senders.iter().zip(vcpus).for_each(|(sender, vcpu)| drop(sender.send(vcpu)));
                Ok(())
            });
            let is_awaited = report.send(Made { threads, result }).is_ok();
            if let Some(vcpu) = first.filter(|_| is_awaited) {
                run_when_released(vcpu, &context, status);
            }
        })?;
        let threads = NewThreads { made, threads: vec![first] };
        Ok(Self { vcpu_setup: send, vcpus: NewVcpus { go, threads } })
    }

    /// Gives them the VM that they are made in.
    pub fn build_on(self, vcpu_setup: VcpuSetup) -> NewVcpus {
        // If they failed before, that is known when they are to run.
        let _ = self.vcpu_setup.send(vcpu_setup);
        self.vcpus
    }
}

impl NewVcpus {
    /// Lets the vCPUs run, each in a thread named after it; or none of them, if not all could be made.
    pub fn run(mut self, buses: &Arc<Buses>, shutdown: &Arc<Shutdown>) -> Result<VcpuThreads, StartError> {
        let context = VcpuContext { buses: Arc::clone(buses), shutdown: Arc::clone(shutdown) };
        // Before it is known whether all are made, for nobody else waits for that: where one is missing, none has its vCPU.
        self.go.drain(..).for_each(|go| drop(go.send(context.clone())));
        self.threads.complete()?;
        Ok(VcpuThreads(std::mem::take(&mut self.threads.threads)))
    }
}

impl NewThreads {
    /// Waits until all vCPUs are made, and until the others' threads have come.
    fn complete(&mut self) -> Result<(), StartError> {
        // Nothing comes where a panic ended the whole process, or where it came before.
        let Ok(Made { threads, result }) = self.made.recv() else { return Ok(()) };
        self.threads.extend(threads);
        result
    }
}

impl Drop for NewThreads {
    fn drop(&mut self) {
        // Those that run are others' to wait for.
        if self.threads.is_empty() {
            return;
        }
        let _ = self.complete();
        for VcpuThread { handle, .. } in self.threads.drain(..) {
            // A panic ended the whole process.
            let _ = handle.join();
        }
    }
}

/// Starts the threads of all vCPUs but the first; returns where each gets its vCPU.
fn start_others(
    contexts: Vec<Receiver<VcpuContext>>,
    threads: &mut Vec<VcpuThread>,
) -> Result<Vec<SyncSender<Vcpu>>, StartError> {
    (1..)
        .zip(contexts)
        .map(|(id, go)| {
            let (give, vcpu) = sync_channel(1);
            let waiting = Waiting { vcpu, go };
            threads.push(VcpuThread::start(id, move |status| {
                if let Ok(vcpu) = waiting.vcpu.recv() {
                    run_when_released(vcpu, &waiting.go, status);
                }
            })?);
            Ok(give)
        })
        .collect()
}

impl VcpuThreads {
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
    pub fn registers(&self) -> Vec<Option<VirtualMapRegisters>> {
        self.0.iter().map(|thread| thread.status.registers()).collect()
    }

    /// Has every vCPU leave the guest, or a system call that blocks, and look whether the run has ended.
    pub fn kick(&self) {
        self.0.iter().filter(|thread| thread.is_running()).for_each(VcpuThread::kick);
    }

    /// Waits until the deadline for all threads to end; returns whether they did. The run must have ended, so that they do, unless one
    /// waits for the host in a way that no signal interrupts.
    pub fn join(self, deadline: Instant) -> (ExitStatistics, bool) {
        while self.0.iter().any(VcpuThread::is_running) && Instant::now() < deadline {
            self.kick();
            // Most leave at once, and sleeping takes longer than that.
            for _ in 0..YIELDS {
                yield_now();
            }
            if self.0.iter().any(VcpuThread::is_running) {
                sleep(KICK_INTERVAL);
            }
        }
        let (mut statistics, mut all_ended) = (ExitStatistics::default(), true);
        for VcpuThread { handle, status } in self.0 {
            if handle.is_finished() {
                // A panic ended the whole process.
                let _ = handle.join();
            } else {
                all_ended = false;
            }
            statistics.exits.port += status.port.load(Ordering::Relaxed);
            statistics.exits.mmio += status.mmio.load(Ordering::Relaxed);
            statistics.exits.other += status.other.load(Ordering::Relaxed);
            statistics.registers.push(status.registers());
        }
        (statistics, all_ended)
    }
}

/// Keeps glibc from giving each thread a heap of its own at its first allocation, which would come between a vCPU and its
/// first instruction, and map 128 MiB to trim them to 64. vCPUs hardly allocate; small pieces are kept for each thread anyway.
pub(crate) fn share_one_heap() {
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
        let handle = thread::spawn(format!("vcpu{id}"), move || body(&shared))?;
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

/// Runs the vCPU once it has what it works with; it ends unrun where that never comes.
fn run_when_released(vcpu: Vcpu, go: &Receiver<VcpuContext>, status: &Status) {
    if let Ok(context) = go.recv() {
        run(vcpu, &context, status);
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
            Next::Refused(reason) => shutdown.end(Outcome::Failed(reason)),
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
        *self.registers.lock().unwrap_or_else(PoisonError::into_inner) = vcpu.virtual_map_registers();
    }

    fn registers(&self) -> Option<VirtualMapRegisters> {
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
            Exit::EndOfInterrupt(_)
            | Exit::Firmware(_)
            | Exit::Interrupted
            | Exit::TripleFault(_)
            | Exit::Dead(_)
            | Exit::Refused(_) => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
