//! A guest that does to one virtio device what a fuzzer chooses: register accesses, ring contents, memory, in any order.
//!
//! The input is a list of steps, each a byte that says which and what it needs of the bytes behind it (see [`Guest::step`]).
//! Workers run in threads as in carpel, so the same input does not always take the same path.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use carpel_devices::bus::BusDevice as _;
use carpel_devices::interrupt::IrqLine;
use carpel_devices::virtio::VirtioDevice;
use carpel_devices::virtio::driver::{self, NEXT, Ring, WRITE, register as r};
use carpel_devices::virtio::runner::WorkerThreads;
use carpel_devices::virtio::transport::mmio::Mmio;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

mod devices;
mod net;
#[cfg(test)]
mod seeds;

use devices::Target;
use net::Host;

/// Guest memory: its size in bytes, and where there is as much again, behind a gap.
const MEMORY: usize = 128 << 10;
const HIGH_MEMORY: u64 = 1 << 20;
/// The helped steps use so many queues, with rings of at most so many entries, in a part of memory of this size each.
const QUEUES: usize = 16;
const ENTRIES: u16 = 32;
const STRIDE: u64 = 0x1000;
/// Where buffers of the helped steps are, as an offset in a queue's part.
const BUFFERS: u64 = 0x600;
/// No more steps are taken of one input.
const STEPS: usize = 256;
/// How long a device may take to answer before the driver goes on.
const SETTLE: Duration = Duration::from_micros(200);

/// The network's steps with this byte and those above make it go away.
const HANGS_UP: u8 = 0xF8;

/// What the driver is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    /// It knows registers and memory, and nothing of virtio: for the transport.
    Raw,
    /// It also has steps that set up queues and make well-formed requests: for devices.
    Helped,
}

/// What the device came to, to tell whether an input means anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Used buffers of the helped steps.
    pub used: u32,
    /// The device was ready at some time.
    pub live: bool,
}

/// Does what the input says to the device of a target. It must not panic or hang, it must work after a reset, and
/// nothing may write to memory once it is reset.
pub fn drive(target: &str, input: &[u8]) -> Seen {
    let Target { device, driver, host } = devices::open(target);
    let mut guest = Guest::new(device, host);
    let mut input = Input(input);
    for _ in 0..STEPS {
        if guest.step(driver, &mut input).is_none() {
            break;
        }
    }
    guest.finish()
}

/// The input, as far as it is not used up.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        Some(self.take(bytes)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }
}

struct Guest {
    mmio: Mmio,
    memory: Arc<GuestMemoryMmap>,
    queues: Vec<Ring>,
    host: Option<Host>,
    seen: Seen,
    /// Ends after `mmio`, so that no request waits.
    runners: WorkerThreads,
}

impl Guest {
    fn new(device: Box<dyn VirtioDevice>, host: Option<Host>) -> Self {
        let ranges = [(GuestAddress(0), MEMORY), (GuestAddress(HIGH_MEMORY), MEMORY)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
        let (mmio, runners) = Mmio::new(device, Arc::clone(&memory), IrqLine::new().unwrap()).unwrap();
        let mut threads = WorkerThreads::default();
        for runner in runners {
            threads.start("runner".into(), runner).unwrap();
        }
        Self { mmio, memory, queues: Vec::new(), host, seen: Seen::default(), runners: threads }
    }

    /// Takes a step; none if the input has no more.
    fn step(&mut self, driver: Driver, input: &mut Input) -> Option<()> {
        let steps = match (driver, &self.host) {
            (Driver::Raw, _) => 5,
            (Driver::Helped, None) => 9,
            (Driver::Helped, Some(_)) => 10,
        };
        match input.byte()? % steps {
            0 => {
                let (offset, value) = (input.byte()?, input.number(4)?);
                self.write(u64::from(offset) * 4, value as u32);
            }
            1 => {
                let (offset, width, value) = (input.number(2)? % 0x300, input.byte()? % 4, input.number(8)?);
                self.mmio.write(offset, &value.to_le_bytes()[..1 << width]);
            }
            2 => {
                let (offset, width) = (input.number(2)? % 0x300, input.byte()? % 4);
                self.mmio.read(offset, &mut [0; 8][..1 << width]);
            }
            3 => {
                let (address, length) = (input.number(3)?, input.byte()?);
                let bytes = input.take(length.into())?;
                let _ = self.memory.write_slice(bytes, GuestAddress(address));
            }
            4 => self.settle(),
            5 => {
                let (without, size) = (input.byte()?, input.byte()?);
                self.start(without.into(), 1 << (size % 6));
            }
            6 => {
                let (queue, index) = (input.byte()?, input.byte()?);
                let descriptor = (input.number(3)?, input.number(4)? as u32, input.byte()? % 8, input.byte()?);
                let (address, length, flags, next) = descriptor;
                self.descriptor(queue.into(), index.into(), address, length, flags.into(), next.into());
            }
            7 => {
                let (queue, head) = (input.byte()?, input.byte()?);
                self.publish(queue.into(), head.into());
            }
            8 => {
                let (queue, readable, writable) = (input.byte()?, input.byte()?, input.byte()?);
                let bytes = input.take(readable.into())?;
                self.request(queue.into(), bytes, writable.into());
            }
            _ => {
                let (queue, header, length) = (input.byte()?, input.take(12)?, input.number(2)?);
                self.network(queue, header, length as usize);
            }
        }
        Some(())
    }

    fn finish(mut self) -> Seen {
        self.settle();
        self.write(r::STATUS, 0);
        assert_eq!(self.read(r::STATUS), 0);
        self.start(0, ENTRIES);
        assert_eq!(self.read(r::STATUS), 15, "the device works after a reset");
        self.write(r::STATUS, 0);
        let after_reset = self.contents();
        let Self { mmio, memory, runners, seen, .. } = self;
        drop((mmio, runners));
        assert!(after_reset == contents(&memory), "nothing is written after a reset");
        seen
    }

    fn read(&mut self, register: u64) -> u32 {
        driver::read(&mut self.mmio, register)
    }

    fn write(&mut self, register: u64, value: u32) {
        driver::write(&mut self.mmio, register, value);
        self.seen.live |= self.read(r::STATUS) & 4 != 0;
    }

    /// Resets the device, and starts it with all that it offers but some of the low features, and with all its queues.
    fn start(&mut self, without: u64, size: u16) {
        self.write(r::STATUS, 0);
        self.write(r::STATUS, 1);
        self.write(r::STATUS, 3);
        for select in [0, 1] {
            self.write(r::DEVICE_FEATURES_SELECT, select);
            let features = self.read(r::DEVICE_FEATURES);
            self.write(r::DRIVER_FEATURES_SELECT, select);
            self.write(r::DRIVER_FEATURES, if select == 0 { features & !(without as u32) } else { features });
        }
        self.write(r::STATUS, 11);
        self.queues.clear();
        for queue in 0..QUEUES {
            self.write(r::QUEUE_SELECT, queue as u32);
            let max = self.read(r::QUEUE_SIZE_MAX) as u16;
            if max == 0 {
                break;
            }
            let base = queue as u64 * STRIDE + STRIDE;
            self.memory.write_slice(&[0; 0x600], GuestAddress(base)).unwrap();
            let ring = Ring::new(size.min(max), [base, base + 0x200, base + 0x300]);
            ring.enable(&mut self.mmio, queue as u32);
            self.queues.push(ring);
        }
        self.write(r::STATUS, 15);
    }

    /// A queue that was started, and its part of memory.
    fn ring(&mut self, queue: usize) -> Option<(usize, u64)> {
        let queue = queue % self.queues.len().max(1);
        (queue < self.queues.len()).then_some((queue, queue as u64 * STRIDE + STRIDE))
    }

    fn descriptor(&mut self, queue: usize, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let Some((queue, _)) = self.ring(queue) else { return };
        self.queues[queue].set_descriptor(&self.memory, index % ENTRIES, (address, length, flags, next));
    }

    fn publish(&mut self, queue: usize, head: u16) {
        let Some((queue, _)) = self.ring(queue) else { return };
        self.queues[queue].publish(&self.memory, head);
        self.write(r::NOTIFY, queue as u32);
    }

    /// A request of what is to be read and of room for the answer, which is waited for.
    fn request(&mut self, queue: usize, readable: &[u8], writable: u32) {
        let Some((queue, base)) = self.ring(queue) else { return };
        let at = base + BUFFERS;
        self.memory.write_slice(readable, GuestAddress(at)).unwrap();
        let parts = [(at, readable.len() as u32, 0), (at + 0x200, writable, WRITE)];
        let parts: Vec<_> = parts.into_iter().filter(|(_, length, _)| *length > 0).collect();
        for (index, &(address, length, flags)) in (0_u16..).zip(&parts) {
            let next = if usize::from(index) + 1 < parts.len() { NEXT } else { 0 };
            self.descriptor(queue, index, address, length, flags | next, index + 1);
        }
        self.publish(queue, 0);
        self.settle();
        let ring = &mut self.queues[queue];
        let used = ring.used_index(&self.memory);
        if used != ring.used {
            ring.used = used;
            self.seen.used += 1;
        }
    }

    /// The network sends a frame, or goes away.
    fn network(&self, queue: u8, header: &[u8], length: usize) {
        match &self.host {
            Some(host) if queue < HANGS_UP => host.send(queue.into(), header, length),
            Some(host) => host.hang_up(queue.into()),
            None => (),
        }
    }

    /// Gives the device time for an answer, and takes note of its interrupt.
    fn settle(&mut self) {
        let started = Instant::now();
        while self.read(r::INTERRUPT_STATUS) == 0 && started.elapsed() < SETTLE {
            thread::yield_now();
        }
        let status = self.read(r::INTERRUPT_STATUS);
        self.write(r::INTERRUPT_ACK, status);
        if let Some(host) = &mut self.host {
            host.receive();
        }
    }

    fn contents(&self) -> Vec<u8> {
        contents(&self.memory)
    }
}

fn contents(memory: &GuestMemoryMmap) -> Vec<u8> {
    let mut bytes = vec![0; 2 * MEMORY];
    let (low, high) = bytes.split_at_mut(MEMORY);
    memory.read_slice(low, GuestAddress(0)).unwrap();
    memory.read_slice(high, GuestAddress(HIGH_MEMORY)).unwrap();
    bytes
}
