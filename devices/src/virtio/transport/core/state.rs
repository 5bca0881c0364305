//! What drivers say of a device, as values: all that a transport's registers remember.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
};

use crate::virtio::queue::Rings;

/// What the driver has written, as far as the device remembers it. The interrupt's part is
/// [`InterruptState`](crate::virtio::interrupt::InterruptState); how far an active queue has come, its worker knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverState {
    /// Device status (section 2.1), without the device's own bit.
    pub status: u32,
    /// Which 32 of the offered features the driver looks at.
    pub device_features_select: u32,
    /// Which 32 of its own features the driver writes.
    pub driver_features_select: u32,
    /// The features that the driver accepted.
    pub driver_features: u64,
    /// The queue that the queues' registers are about; there may be none of this number.
    pub queue_select: u32,
    /// The queues' set-up.
    pub queues: Vec<QueueState>,
}

/// A queue's set-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Where its rings are.
    pub rings: Rings,
    /// The driver enabled it.
    pub ready: bool,
}

impl DriverState {
    /// The state after a reset, of a device with so many queues.
    pub(super) fn new(queues: usize) -> Self {
        Self {
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: vec![QueueState::default(); queues],
        }
    }

    /// Whether the driver accepted this feature.
    pub(super) const fn has_feature(&self, bit: u32) -> bool {
        self.driver_features >> bit & 1 != 0
    }

    /// The driver is there.
    pub(super) const fn has_driver(&self) -> bool {
        self.status & VIRTIO_CONFIG_S_DRIVER != 0
    }

    /// The driver is ready, and has not given up.
    pub(super) const fn is_live(&self) -> bool {
        self.status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED) == VIRTIO_CONFIG_S_DRIVER_OK
    }

    pub(super) fn selected(&self) -> Option<&QueueState> {
        self.queues.get(self.queue_select as usize)
    }

    /// The selected queue, if its set-up may change now: after the features are negotiated and while it is off.
    pub(super) fn configurable(&mut self) -> Option<&mut QueueState> {
        let open = self.status & (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED) == VIRTIO_CONFIG_S_FEATURES_OK;
        self.queues.get_mut(self.queue_select as usize).filter(|queue| open && !queue.ready)
    }

    /// Features are accepted between DRIVER and FEATURES_OK.
    pub(super) fn accept_features(&mut self, value: u32) {
        let steps = VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED;
        let shift = 32 * u64::from(self.driver_features_select);
        if self.status & steps == VIRTIO_CONFIG_S_DRIVER && shift <= 32 {
            self.driver_features &= !(u64::from(u32::MAX) << shift);
            self.driver_features |= u64::from(value) << shift;
        }
    }
}
