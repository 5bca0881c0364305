//! A driver for tests: it negotiates with a device through its registers and builds rings in guest memory, as a guest would.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use event_manager::{EventOps, Events};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::driver::{self, Ring};
pub use super::driver::{Descriptor, INDIRECT, NEXT, WRITE, register};
use super::interrupt::Interrupt;
use super::queue::{Fault, Queues};
use super::runner::WorkerThreads;
use super::transport::mmio::Mmio;
use super::{VirtioDevice, Worker};
use crate::interrupt::IrqLine;
use register as r;

/// The guest's memory: its size in bytes, and a gap behind which there is more.
pub const MEMORY: u64 = 1 << 20;
/// Guest physical address of the memory behind the gap.
pub const HIGH_MEMORY: u64 = 4 << 20;
/// Each queue's rings lie in a part of this size.
const QUEUE_STRIDE: u64 = 0x4000;
/// Where buffers of tests may lie: behind the rings of 16 queues.
pub const BUFFERS: u64 = 16 * QUEUE_STRIDE;
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Guest physical addresses of a queue's descriptor table, available ring and used ring.
pub fn rings(queue: usize) -> [u64; 3] {
    let base = queue as u64 * QUEUE_STRIDE + 0x1000;
    [base, base + 0x1000, base + 0x2000]
}

/// Queues at their usual places that are not set up.
fn no_rings(queues: usize) -> Vec<Ring> {
    (0..queues).map(|queue| Ring::new(0, rings(queue))).collect()
}

/// A guest with one device.
pub struct Guest {
    pub mmio: Mmio,
    pub memory: Arc<GuestMemoryMmap>,
    pub irq: IrqLine,
    queues: Vec<Ring>,
    /// Ends after `mmio` so that no request waits.
    pub threads: WorkerThreads,
}

impl Guest {
    /// Puts the device in front of a guest, with each runner in a thread.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let ranges = [(GuestAddress(0), MEMORY as usize), (GuestAddress(HIGH_MEMORY), MEMORY as usize)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
        let irq = IrqLine::new().unwrap();
        let count = device.queue_sizes().len();
        let (mmio, runners) = Mmio::new(device, Arc::clone(&memory), irq.clone()).unwrap();
        let mut threads = WorkerThreads::default();
        for runner in runners {
            threads.start("runner".into(), runner).unwrap();
        }
        Self { mmio, memory, irq, queues: no_rings(count), threads }
    }

    pub fn read(&mut self, register: u64) -> u32 {
        driver::read(&mut self.mmio, register)
    }

    pub fn write(&mut self, register: u64, value: u32) {
        driver::write(&mut self.mmio, register, value);
    }

    /// All feature bits that the device offers.
    pub fn offered(&mut self) -> u64 {
        [0, 1].into_iter().fold(0, |features, select| {
            self.write(r::DEVICE_FEATURES_SELECT, select);
            features | u64::from(self.read(r::DEVICE_FEATURES)) << (32 * select)
        })
    }

    /// Resets the device and negotiates up to FEATURES_OK; returns the status.
    pub fn negotiate(&mut self, features: u64) -> u32 {
        self.write(r::STATUS, 0);
        self.queues = no_rings(self.queues.len());
        self.write(r::STATUS, 1);
        self.write(r::STATUS, 3);
        for select in [0, 1] {
            self.write(r::DRIVER_FEATURES_SELECT, select);
            self.write(r::DRIVER_FEATURES, (features >> (32 * select)) as u32);
        }
        self.write(r::STATUS, 11);
        self.read(r::STATUS)
    }

    /// Sets up a queue at its usual place and makes it ready; returns whether it is.
    pub fn set_up_queue(&mut self, queue: usize, size: u16) -> bool {
        let [descriptors, available, used] = rings(queue);
        self.set_up_rings(queue, size, descriptors, available, used)
    }

    pub fn set_up_rings(&mut self, queue: usize, size: u16, descriptors: u64, available: u64, used: u64) -> bool {
        for ring in [available, used] {
            // Where there is no memory, the queue will not become ready.
            let _ = self.memory.write_slice(&[0; 4], GuestAddress(ring));
        }
        let ring = Ring::new(size, [descriptors, available, used]);
        let ready = ring.enable(&mut self.mmio, queue as u32);
        if ready {
            self.queues[queue] = ring;
        }
        ready
    }

    /// Resets a queue, and nothing else; returns when it is off.
    pub fn reset_queue(&mut self, queue: usize) {
        self.write(r::QUEUE_SELECT, queue as u32);
        self.write(r::QUEUE_RESET, 1);
        assert_eq!((self.read(r::QUEUE_RESET), self.read(r::QUEUE_READY)), (0, 0));
    }

    /// Resets a queue and sets it up anew.
    pub fn renew_queue(&mut self, queue: usize) {
        self.reset_queue(queue);
        assert!(self.set_up_queue(queue, 16));
    }

    pub fn driver_ok(&mut self) {
        self.write(r::STATUS, 15);
    }

    /// Negotiates all that is offered, but the event index, and starts with all queues of 16 entries, or less.
    pub fn start(&mut self) {
        let features = self.offered() & !(1 << 29);
        self.start_with(features);
    }

    pub fn start_with(&mut self, features: u64) {
        assert_eq!(self.negotiate(features), 11);
        for queue in 0..self.queues.len() {
            self.write(r::QUEUE_SELECT, queue as u32);
            let size = self.read(r::QUEUE_SIZE_MAX).min(16) as u16;
            assert!(self.set_up_queue(queue, size));
        }
        self.driver_ok();
        assert_eq!(self.read(r::STATUS), 15);
    }

    pub fn descriptor(&self, queue: usize, index: u16, descriptor: Descriptor) {
        self.queues[queue].set_descriptor(&self.memory, index, descriptor);
    }

    pub fn write_descriptor(&self, at: u64, descriptor: Descriptor) {
        driver::write_descriptor(&self.memory, at, descriptor);
    }

    /// Makes a chain available without a notification.
    pub fn publish(&mut self, queue: usize, head: u16) {
        self.queues[queue].publish(&self.memory, head);
    }

    /// Writes the available ring's index.
    pub fn set_available(&mut self, queue: usize, index: u16) {
        self.queues[queue].set_available(&self.memory, index);
    }

    pub fn kick(&mut self, queue: usize) {
        self.write(r::NOTIFY, queue as u32);
    }

    /// Sends buffers, to be read or (with [`WRITE`]) written, as one chain from descriptor 0 on, and waits until they are
    /// used; returns how many bytes the device says that it wrote.
    pub fn request(&mut self, queue: usize, buffers: &[(u64, u32, u16)]) -> u32 {
        for (index, &(address, length, flags)) in (0_u16..).zip(buffers) {
            let next = if usize::from(index) + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(queue, index, (address, length, flags | next, index + 1));
        }
        self.publish(queue, 0);
        self.kick(queue);
        let (head, written) = self.wait_used(queue);
        assert_eq!(head, 0);
        written
    }

    /// The next used element: head and bytes written.
    pub fn poll_used(&mut self, queue: usize) -> Option<(u32, u32)> {
        self.queues[queue].poll_used(&self.memory)
    }

    #[track_caller]
    pub fn wait_used(&mut self, queue: usize) -> (u32, u32) {
        let mut used = None;
        self.wait(|guest| {
            used = guest.poll_used(queue);
            used.is_some()
        });
        used.unwrap()
    }

    #[track_caller]
    pub fn wait_needs_reset(&mut self) {
        self.wait(|guest| guest.read(r::STATUS) & 64 != 0);
    }

    #[track_caller]
    pub fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < PATIENCE, "The device does not answer");
            thread::sleep(Duration::from_micros(100));
        }
    }

    pub fn write_bytes(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}

/// A device that reverses what it is given: for tests of queues and transport. Queue 0 is for requests; queue 1 belongs to
/// another worker, that keeps its chains until it is stopped.
pub struct Reverser {
    pub config: [u8; 8],
}

impl Reverser {
    pub fn new() -> Self {
        Self { config: *b"reverser" }
    }
}

impl VirtioDevice for Reverser {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        0b101
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64, 16]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_bytes(&self.config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (0, Ok(data)) = (offset, data.try_into()) {
            self.config = data;
        }
    }

    fn workers(&mut self, _interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
        vec![Box::new(ReverseWorker), Box::new(HoldingWorker::default())]
    }
}

struct ReverseWorker;

impl Worker for ReverseWorker {
    fn queues(&self) -> Range<usize> {
        0..1
    }

    fn kick(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Fault> {
        let Some(queue) = queues.get(queue) else { return Ok(()) };
        while let Some(chain) = queue.pop()? {
            let mut bytes = vec![0; chain.readable().len().min(4096) as usize];
            chain.readable().read(0, &mut bytes)?;
            bytes.reverse();
            let written = chain.writable().write(0, &bytes)?;
            queue.complete(chain, written as u32)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct HoldingWorker {
    held: Vec<super::chain::Chain>,
}

impl Worker for HoldingWorker {
    fn queues(&self) -> Range<usize> {
        1..2
    }

    fn kick(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Fault> {
        let Some(queue) = queues.get(queue) else { return Ok(()) };
        while let Some(chain) = queue.pop()? {
            self.held.push(chain);
        }
        Ok(())
    }

    fn event(&mut self, _events: Events, _queues: &mut Queues, _ops: &mut EventOps) -> Result<(), Fault> {
        Ok(())
    }

    fn stop(&mut self, _queue: usize) {
        self.held.clear();
    }
}
