//! virtio over MMIO (section 4.2), without its legacy interface.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL,
    VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK,
    VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH,
    VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_BASE_HIGH, VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH,
    VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::interrupt::IrqLine;
use crate::virtio::VirtioDevice;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{Fault, Rings, VirtQueue};
use crate::virtio::runner::{Command, Runner, RunnerHandle};

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface, which was version 1.
const VERSION: u32 = 2;
/// "CRPL".
const VENDOR: u32 = 0x4C50_5243;
/// The register that resets a queue, of which the bindings do not know yet (section 4.2.2).
const QUEUE_RESET: u32 = 0x0C0;

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;

/// The bits that each need the one before (section 3.1.1).
const STEPS: [u32; 3] = [DRIVER, FEATURES_OK, DRIVER_OK];

/// What every device offers: the queues' features are the same for all.
const COMMON_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_RING_RESET
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_RING_F_EVENT_IDX;

/// A device behind its register window.
pub struct Mmio {
    device: Box<dyn VirtioDevice>,
    interrupt: Interrupt,
    memory: Arc<GuestMemoryMmap>,
    queues: Vec<QueueEnd>,
    runners: Vec<LaneEnd>,
    registers: Registers,
}

/// What does not change of a queue.
struct QueueEnd {
    max: u16,
    kick: Arc<EventFd>,
}

/// A runner and which queues it serves.
struct LaneEnd {
    handle: RunnerHandle,
    queues: std::ops::Range<usize>,
}

/// What the driver has written, as far as the device remembers it.
#[derive(Clone, Debug)]
struct Registers {
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<QueueRegisters>,
}

#[derive(Clone, Copy, Debug, Default)]
struct QueueRegisters {
    rings: Rings,
    ready: bool,
}

impl Mmio {
    /// Offset of the register that the driver notifies the device by: its value is the queue's number.
    pub const NOTIFY: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

    /// Puts a device behind registers, in its reset state. The runners that come with it must be run, or dropped when
    /// nothing is to be expected of the device any more: until then, a reset by the driver waits for them.
    pub fn new(
        mut device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        irq: IrqLine,
    ) -> io::Result<(Self, Vec<Runner>)> {
        let interrupt = Interrupt::new(irq);
        let queues = device.queue_sizes().into_iter().map(QueueEnd::new).collect::<io::Result<Vec<_>>>()?;
        let (mut ends, mut runners) = (Vec::new(), Vec::new());
        for worker in device.workers(&interrupt) {
            let served = worker.queues();
            let kicks = served.clone().filter_map(|queue| Some((queue, Arc::clone(&queues.get(queue)?.kick))));
            let (runner, handle) = Runner::new(worker, kicks.collect(), interrupt.clone())?;
            runners.push(runner);
            ends.push(LaneEnd { handle, queues: served });
        }
        let registers = Registers::new(queues.len());
        Ok((Self { device, interrupt, memory, queues, runners: ends, registers }, runners))
    }

    /// The line that interrupts the driver.
    pub fn line(&self) -> &IrqLine {
        self.interrupt.line()
    }

    /// What tells the workers of a notification, queue by queue; a hypervisor may signal these itself.
    pub fn kicks(&self) -> impl Iterator<Item = &EventFd> {
        self.queues.iter().map(|queue| &*queue.kick)
    }

    fn read_register(&self, register: u32) -> u32 {
        let queue = self.registers.selected();
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device.device_type(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered(), self.registers.device_features_select),
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.selected_end().map_or(0, |queue| queue.max.into()),
            VIRTIO_MMIO_QUEUE_READY => queue.is_some_and(|queue| queue.ready).into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            VIRTIO_MMIO_STATUS => self.registers.status | if self.interrupt.is_broken() { NEEDS_RESET } else { 0 },
            VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.generation(),
            // No device has shared memory: the length of a region that is not there is all ones.
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // A queue's reset is over when the write that asks for it is: its register reads 0, as do write-only ones.
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u32, value: u32) {
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.registers.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.registers.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.registers.accept_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.registers.queue_select = value,
            VIRTIO_MMIO_QUEUE_READY => self.set_queue_ready(value),
            VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value),
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.set_status(value),
            QUEUE_RESET if value == 1 && self.registers.has_feature(VIRTIO_F_RING_RESET) => self.reset_queue(),
            _ => {
                if let Some(queue) = self.registers.configurable() {
                    queue.rings.write(register, value);
                }
            }
        }
    }

    fn offered(&self) -> u64 {
        COMMON_FEATURES | self.device.features()
    }

    fn selected_end(&self) -> Option<&QueueEnd> {
        self.queues.get(self.registers.queue_select as usize)
    }

    fn notify(&self, queue: u32) {
        if let Some(queue) = self.queues.get(queue as usize).filter(|_| self.registers.is_live()) {
            // It fails only when its counter is full, and then a kick is on its way.
            let _ = queue.kick.write(1);
        }
    }

    /// Takes the steps that the driver asks for, in their order, as far as they are open to it. Only a reset takes one
    /// back.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        if self.registers.status & FAILED != 0 {
            return;
        }
        if value & FAILED != 0 {
            self.stop();
            self.registers.status |= FAILED;
            return;
        }
        // That it was noticed means nothing to the device, and U-Boot 2023.01 does not say so again after a reset.
        self.registers.status |= value & ACKNOWLEDGE;
        for step in STEPS {
            if self.registers.status & step != 0 {
                continue;
            }
            if value & step == 0 || !self.enter(step) {
                return;
            }
            self.registers.status |= step;
        }
    }

    /// Whether the device goes along with the step.
    fn enter(&mut self, step: u32) -> bool {
        let accepted = self.registers.driver_features;
        match step {
            FEATURES_OK => accepted & !self.offered() == 0 && self.registers.has_feature(VIRTIO_F_VERSION_1),
            DRIVER_OK => {
                self.interrupt.set_live(true);
                self.start();
                true
            }
            _ => true,
        }
    }

    /// Every register takes its first value, and the workers let go of the queues.
    fn reset(&mut self) {
        self.stop();
        self.interrupt.reset();
        self.registers = Registers::new(self.queues.len());
    }

    fn stop(&self) {
        if self.registers.is_live() {
            self.runners.iter().for_each(|runner| runner.handle.ask(Command::Stop));
        }
    }

    /// Hands the queues that are ready to the workers.
    fn start(&self) {
        for runner in &self.runners {
            let ready = runner.queues.clone().filter(|&number| self.registers.queues[number].ready);
            match ready.map(|number| Ok((number, self.queue(number)?))).collect::<Result<Vec<_>, Fault>>() {
                Ok(queues) => runner.handle.ask(Command::Start(queues, self.registers.driver_features)),
                // Not to be expected: the rings were sound when the queue was made ready.
                Err(fault) => {
                    log::debug!("A queue does not start: {fault}");
                    self.interrupt.needs_reset();
                }
            }
        }
    }

    /// The queue as the driver set it up.
    fn queue(&self, number: usize) -> Result<VirtQueue, Fault> {
        let end = &self.queues[number];
        let rings = self.registers.queues[number].rings;
        let event_index = self.registers.has_feature(VIRTIO_RING_F_EVENT_IDX);
        VirtQueue::new(end.max, rings, event_index, &self.memory, &self.interrupt, &end.kick)
    }

    fn set_queue_ready(&mut self, value: u32) {
        if value == 0 {
            return self.stop_queue();
        }
        let number = self.registers.queue_select as usize;
        // Once the driver is ready, only a queue that was reset may become ready again.
        let late = self.registers.is_live();
        if late && !self.registers.has_feature(VIRTIO_F_RING_RESET) || self.registers.configurable().is_none() {
            return;
        }
        let queue = match self.queue(number) {
            Ok(queue) => queue,
            Err(fault) => return log::debug!("Queue {number} stays off: {fault}"),
        };
        self.registers.queues[number].ready = true;
        if late {
            self.ask_for(number, Command::StartQueue(number, Box::new(queue)));
        }
    }

    /// The selected queue and its registers take their first state.
    fn reset_queue(&mut self) {
        self.stop_queue();
        if let Some(queue) = self.registers.configurable() {
            *queue = QueueRegisters::default();
        }
    }

    fn stop_queue(&mut self) {
        let (number, live) = (self.registers.queue_select as usize, self.registers.is_live());
        let Some(queue) = self.registers.queues.get_mut(number).filter(|queue| queue.ready) else { return };
        queue.ready = false;
        if live {
            self.ask_for(number, Command::StopQueue(number));
        }
    }

    /// Asks the runner that serves the queue.
    fn ask_for(&self, queue: usize, command: Command) {
        if let Some(runner) = self.runners.iter().find(|runner| runner.queues.contains(&queue)) {
            runner.handle.ask(command);
        }
    }
}

impl BusDevice for Mmio {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            self.device.read_config(offset, data);
        } else if let (Some(register), Ok(data)) = (register(offset), <&mut [u8; 4]>::try_from(data)) {
            *data = self.read_register(register).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            if self.registers.status & DRIVER != 0 {
                self.device.write_config(offset, data);
            }
        } else if let (Some(register), Ok(data)) = (register(offset), <[u8; 4]>::try_from(data)) {
            self.write_register(register, u32::from_le_bytes(data));
        }
    }
}

impl QueueEnd {
    fn new(max: u16) -> io::Result<Self> {
        Ok(Self { max, kick: Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?) })
    }
}

impl Registers {
    fn new(queues: usize) -> Self {
        Self {
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: vec![QueueRegisters::default(); queues],
        }
    }

    fn has_feature(&self, bit: u32) -> bool {
        self.driver_features >> bit & 1 != 0
    }

    /// The driver is ready, and has not given up.
    fn is_live(&self) -> bool {
        self.status & (DRIVER_OK | FAILED) == DRIVER_OK
    }

    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_select as usize)
    }

    /// The selected queue, if its set-up may change now: after the features are negotiated and while it is off.
    fn configurable(&mut self) -> Option<&mut QueueRegisters> {
        let open = self.status & (FEATURES_OK | FAILED) == FEATURES_OK;
        self.queues.get_mut(self.queue_select as usize).filter(|queue| open && !queue.ready)
    }

    /// Features are accepted between DRIVER and FEATURES_OK.
    fn accept_features(&mut self, value: u32) {
        let shift = 32 * u64::from(self.driver_features_select);
        if self.status & (DRIVER | FEATURES_OK | FAILED) == DRIVER && shift <= 32 {
            self.driver_features &= !(u64::from(u32::MAX) << shift);
            self.driver_features |= u64::from(value) << shift;
        }
    }
}

impl Rings {
    fn write(&mut self, register: u32, value: u32) {
        match register {
            // No queue can have 0 entries, so that stands for what does not fit.
            VIRTIO_MMIO_QUEUE_NUM => self.size = u16::try_from(value).unwrap_or(0),
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut self.descriptors, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut self.descriptors, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut self.available, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut self.available, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut self.used, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut self.used, value),
            _ => {}
        }
    }
}

/// The register at this offset, if one can begin there.
fn register(offset: u64) -> Option<u32> {
    const REGISTERS: RangeInclusive<u64> = 0..=VIRTIO_MMIO_CONFIG as u64 - 4;
    (REGISTERS.contains(&offset) && offset.is_multiple_of(4)).then_some(offset as u32)
}

/// 32 of 64 feature bits; there are no others.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & u64::from(u32::MAX) | u64::from(value) << 32;
}

#[cfg(test)]
mod tests;
