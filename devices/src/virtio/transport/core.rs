//! The status machine of a device (sections 2.1 and 3): features, status, queues, reset, and the workers that follow them.
//!
//! It knows no registers. A transport shows it to drivers: it passes on what they write and read, in its own registers' places
//! and widths. What registers remember is here, in a [`DriverState`], selectors as well: they are the same over MMIO and PCI.

mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::virtio::VirtioDevice;
use crate::virtio::interrupt::{Interrupt, InterruptState, NotificationSink};
use crate::virtio::queue::{Fault, Rings, VirtQueue};
use crate::virtio::runner::{Command, Runner, RunnerHandle};
pub use state::{DriverState, QueueState};

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

/// A device with its status, queues and workers.
pub struct Core {
    device: Box<dyn VirtioDevice>,
    interrupt: Interrupt,
    memory: Arc<GuestMemoryMmap>,
    queues: Vec<QueueEnd>,
    runners: Vec<RunnerEnd>,
    state: DriverState,
}

/// What does not change of a queue.
struct QueueEnd {
    max: u16,
    kick: Arc<EventFd>,
}

/// A runner and which queues it serves.
struct RunnerEnd {
    handle: RunnerHandle,
    queues: Range<usize>,
}

impl Core {
    /// A device in its reset state, whose notifications go to `sink`. The runners that come with it must be run, or dropped
    /// when nothing is to be expected of the device any more: until then, a reset by the driver waits for them. The error is
    /// that of creating an eventfd.
    pub fn new(
        mut device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        sink: Box<dyn NotificationSink>,
    ) -> io::Result<(Self, Vec<Runner>)> {
        let interrupt = Interrupt::new(sink);
        let queues = device.queue_sizes().into_iter().map(QueueEnd::new).collect::<io::Result<Vec<_>>>()?;
        let (mut ends, mut runners) = (Vec::new(), Vec::new());
        for worker in device.workers(&interrupt) {
            let served = worker.queues();
            let kicks = served.clone().filter_map(|queue| Some((queue, Arc::clone(&queues.get(queue)?.kick))));
            let (runner, handle) = Runner::new(worker, kicks.collect(), interrupt.clone())?;
            runners.push(runner);
            ends.push(RunnerEnd { handle, queues: served });
        }
        let state = DriverState::new(queues.len());
        Ok((Self { device, interrupt, memory, queues, runners: ends, state }, runners))
    }

    /// What tells the workers of a notification by the driver, queue by queue; a hypervisor may signal these itself.
    pub fn kicks(&self) -> impl Iterator<Item = &EventFd> {
        self.queues.iter().map(|queue| &*queue.kick)
    }

    /// What the driver has said so far.
    pub const fn driver_state(&self) -> &DriverState {
        &self.state
    }

    /// What the device has to say to the driver.
    pub fn interrupt_state(&self) -> InterruptState {
        self.interrupt.state()
    }

    /// The device type (section 5).
    pub fn device_type(&self) -> u32 {
        self.device.device_type()
    }

    /// All features that the device offers.
    pub fn offered(&self) -> u64 {
        COMMON_FEATURES | self.device.features()
    }

    /// Selects which 32 of the offered features [`Self::selected_features`] are.
    pub const fn select_device_features(&mut self, half: u32) {
        self.state.device_features_select = half;
    }

    /// 32 of the 64 features that the device offers; there are no others.
    pub fn selected_features(&self) -> u32 {
        match self.state.device_features_select {
            0 => self.offered() as u32,
            1 => (self.offered() >> 32) as u32,
            _ => 0,
        }
    }

    /// Selects which 32 features [`Self::accept_features`] is about.
    pub const fn select_driver_features(&mut self, half: u32) {
        self.state.driver_features_select = half;
    }

    /// The driver accepts 32 of its features, which it can between DRIVER and FEATURES_OK.
    pub fn accept_features(&mut self, features: u32) {
        self.state.accept_features(features);
    }

    /// Device status (section 2.1).
    pub fn status(&self) -> u32 {
        self.state.status | if self.interrupt.state().needs_reset { NEEDS_RESET } else { 0 }
    }

    /// Takes the steps that the driver asks for, in their order, as far as they are open to it. Only a reset, which is status
    /// 0, takes one back.
    pub fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        if self.state.status & FAILED != 0 {
            return;
        }
        if value & FAILED != 0 {
            self.stop();
            self.state.status |= FAILED;
            return;
        }
        // That it was noticed means nothing to the device, and U-Boot 2023.01 does not say so again after a reset.
        self.state.status |= value & ACKNOWLEDGE;
        for step in STEPS {
            if self.state.status & step != 0 {
                continue;
            }
            if value & step == 0 || !self.enter(step) {
                return;
            }
            self.state.status |= step;
        }
    }

    /// Selects the queue that the following functions are about, whether there is one of this number or not.
    pub const fn select_queue(&mut self, queue: u32) {
        self.state.queue_select = queue;
    }

    /// The most entries that the selected queue can have; 0 if there is none.
    pub fn max_queue_size(&self) -> u16 {
        self.queues.get(self.state.queue_select as usize).map_or(0, |queue| queue.max)
    }

    /// Whether the selected queue is enabled.
    pub fn is_queue_ready(&self) -> bool {
        self.state.selected().is_some_and(|queue| queue.ready)
    }

    /// The selected queue's rings, if they may be set up now: after the features are negotiated and while it is off.
    pub fn rings(&mut self) -> Option<&mut Rings> {
        self.state.configurable().map(|queue| &mut queue.rings)
    }

    /// Enables the selected queue, if its rings can be used, or stops it.
    pub fn set_queue_ready(&mut self, ready: bool) {
        if !ready {
            return self.stop_queue();
        }
        let number = self.state.queue_select as usize;
        // Once the driver is ready, only a queue that was reset may become ready again; none of a device that needs a reset.
        let late = self.state.is_live();
        let barred = self.interrupt.awaits_reset() || late && !self.state.has_feature(VIRTIO_F_RING_RESET);
        if barred || self.state.configurable().is_none() {
            return;
        }
        let queue = match self.queue(number) {
            Ok(queue) => queue,
            Err(fault) => return log::debug!("Queue {number} stays off: {fault}"),
        };
        self.state.queues[number].ready = true;
        if late {
            self.ask_for(number, Command::StartQueue(number, Box::new(queue)));
        }
    }

    /// Resets the selected queue, if that was negotiated: it and its set-up take their first state. It is over when this
    /// returns.
    pub fn reset_queue(&mut self) {
        if !self.state.has_feature(VIRTIO_F_RING_RESET) {
            return;
        }
        self.stop_queue();
        if let Some(queue) = self.state.configurable() {
            *queue = QueueState::default();
        }
    }

    /// The driver made buffers available in a queue.
    pub fn notify(&self, queue: u32) {
        if let Some(queue) = self.queues.get(queue as usize).filter(|_| self.state.is_live()) {
            // It fails only when its counter is full, and then a kick is on its way.
            let _ = queue.kick.write(1);
        }
    }

    /// The driver has seen these bits of the interrupt status.
    pub fn acknowledge(&self, bits: u32) {
        self.interrupt.acknowledge(bits);
    }

    /// Fills `data` with what configuration space holds at `offset`.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.device.read_config(offset, data);
    }

    /// Takes what the driver writes to configuration space at `offset`, once there is one.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.state.has_driver() {
            self.device.write_config(offset, data);
        }
    }

    /// Whether the device goes along with the step.
    fn enter(&mut self, step: u32) -> bool {
        let accepted = self.state.driver_features;
        match step {
            FEATURES_OK => accepted & !self.offered() == 0 && self.state.has_feature(VIRTIO_F_VERSION_1),
            DRIVER_OK => {
                self.interrupt.set_live(true);
                self.start();
                true
            }
            _ => true,
        }
    }

    /// All that the driver said is forgotten, and the workers let go of the queues.
    fn reset(&mut self) {
        self.stop();
        self.device.reset();
        self.interrupt.reset();
        self.state = DriverState::new(self.queues.len());
    }

    fn stop(&self) {
        if self.state.is_live() {
            self.runners.iter().for_each(|runner| runner.handle.ask(Command::Stop));
        }
    }

    /// Hands the queues that are ready to the workers.
    fn start(&self) {
        for runner in &self.runners {
            let ready = runner.queues.clone().filter(|&number| self.state.queues[number].ready);
            match ready.map(|number| Ok((number, self.queue(number)?))).collect::<Result<Vec<_>, Fault>>() {
                Ok(queues) => runner.handle.ask(Command::Start(queues, self.state.driver_features)),
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
        let rings = self.state.queues[number].rings;
        let event_index = self.state.has_feature(VIRTIO_RING_F_EVENT_IDX);
        VirtQueue::new(number, end.max, rings, event_index, &self.memory, &self.interrupt, &end.kick)
    }

    fn stop_queue(&mut self) {
        let (number, live) = (self.state.queue_select as usize, self.state.is_live());
        let Some(queue) = self.state.queues.get_mut(number).filter(|queue| queue.ready) else { return };
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

impl QueueEnd {
    fn new(max: u16) -> io::Result<Self> {
        Ok(Self { max, kick: Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?) })
    }
}
