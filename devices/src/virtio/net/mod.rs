//! Network device (section 5.1) with a tap of the host behind it.
//!
//! Frames pass between guest memory and the kernel without a copy of ours, each with a header that tells what is left
//! to its receiver: checksums and segmentation. The kernel's tap does for the guest what the guest leaves to it,
//! and leaves to the guest what that allows.

mod control;
mod features;
mod frames;
mod header;
mod link;
mod options;
mod pair;
mod receive;
mod state;
mod tap;
#[cfg(test)]
mod tests;
mod transmit;

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

use super::interrupt::Interrupt;
use super::rate::RateLimiter;
use super::{Checked, DeviceConfig, GuestLimits, OpenContext, Opened, VirtioDevice, Worker, read_bytes};
use crate::registry::Kind;
use control::ControlWorker;
use options::KIND;
use pair::{PairWorker, Role};
use receive::Receiver;
use state::LinkState;
use tap::{Interface, Tap};
use transmit::Transmitter;

pub use link::Link;
pub use options::{Mac, NetConfig, NetConfigError};

/// Device type (section 5).
const DEVICE_TYPE: u32 = 1;
/// What Linux fills without waiting: a frame of 64 KiB takes 43 buffers of 1526 bytes. QEMU's queues have as many entries.
const QUEUE_SIZE: u16 = 256;
/// The driver has one command at a time.
const CONTROL_QUEUE_SIZE: u16 = 16;
/// What every device offers.
const FEATURES: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_MTU
    | 1 << VIRTIO_NET_F_MAC
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_NET_F_STATUS;
/// And what a device with several queue pairs offers.
const MULTI_QUEUE_FEATURES: u64 = 1 << VIRTIO_NET_F_CTRL_VQ | 1 << VIRTIO_NET_F_MQ;

impl DeviceConfig for NetConfig {
    const KIND: &'static Kind = &KIND;

    fn check(&self, _guest: GuestLimits) -> Checked {
        self.validate()?;
        Interface::new(&self.tap)?;
        Ok(())
    }

    fn open(&self, _context: &OpenContext<'_>) -> Opened {
        let taps = Tap::open(&self.tap, self.queues as usize)?;
        let interface = Interface::new(&self.tap)?;
        if let Some(mtu) = self.mtu {
            // It was checked to be one that a tap can have.
            interface.set_mtu(mtu as u16)?;
        }
        let mtu = interface.mtu()?;
        let links = taps.into_iter().map(|tap| Arc::new(tap) as Arc<dyn Link>).collect();
        Ok(Box::new(Net::new(self, mtu, links)?))
    }
}

/// A network device with its links to the host, one for each queue pair.
pub struct Net {
    name: String,
    mac: [u8; 6],
    mtu: u16,
    links: Vec<Arc<dyn Link>>,
    is_up: Arc<AtomicBool>,
    /// One for each queue pair, until the workers are asked for.
    limiters: Vec<(RateLimiter, RateLimiter)>,
}

impl Net {
    /// Connects a device to these links, by which packets of up to `mtu` bytes pass. What the configuration says of a tap does not
    /// matter here.
    pub fn new(config: &NetConfig, mtu: u16, links: Vec<Arc<dyn Link>>) -> io::Result<Self> {
        let share = |rate: Option<NonZeroU64>| rate.map(|rate| (rate.get() / links.len() as u64).max(1));
        let limiters = || Ok((RateLimiter::new(share(config.rx_rate))?, RateLimiter::new(share(config.tx_rate))?));
        let limiters = links.iter().map(|_| limiters()).collect::<io::Result<_>>()?;
        let is_up = Arc::new(AtomicBool::new(true));
        Ok(Self { name: config.tap.clone(), mac: config.mac(), mtu, links, is_up, limiters })
    }

    fn has_control_queue(&self) -> bool {
        self.links.len() > 1
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        FEATURES | if self.has_control_queue() { MULTI_QUEUE_FEATURES } else { 0 }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * self.links.len()];
        sizes.extend(self.has_control_queue().then_some(CONTROL_QUEUE_SIZE));
        sizes
    }

    /// Section 5.1.4: MAC address, status, number of queue pairs, MTU.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let status = if self.is_up.load(Ordering::Acquire) { VIRTIO_NET_S_LINK_UP as u16 } else { 0 };
        let mut config = self.mac.to_vec();
        for field in [status, self.links.len() as u16, self.mtu] {
            config.extend(field.to_le_bytes());
        }
        read_bytes(&config, offset, data);
    }

    fn workers(&mut self, interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
        let state = LinkState { is_up: Arc::clone(&self.is_up), interrupt: interrupt.clone() };
        let mut workers: Vec<Box<dyn Worker>> = Vec::new();
        for ((number, link), (receive, transmit)) in self.links.iter().enumerate().zip(self.limiters.drain(..)) {
            workers.push(Box::new(PairWorker {
                number,
                name: self.name.clone(),
                link: Arc::clone(link),
                state: state.clone(),
                receiver: Receiver::new(receive, self.mtu),
                transmitter: Transmitter::new(transmit),
                role: Role::Nothing,
            }));
        }
        if self.has_control_queue() {
            workers.push(Box::new(ControlWorker { links: self.links.clone() }));
        }
        workers
    }
}
