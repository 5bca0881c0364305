//! virtio over MMIO (section 4.2), without its legacy interface: the registers by which drivers see a device's status machine.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL,
    VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK,
    VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH,
    VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_BASE_HIGH, VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH,
    VIRTIO_MMIO_SHM_LEN_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::core::Core;
use crate::bus::BusDevice;
use crate::interrupt::InterruptSink;
use crate::virtio::VirtioDevice;
use crate::virtio::queue::Rings;
use crate::virtio::runner::Runner;

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface, which was version 1.
const VERSION: u32 = 2;
/// "CRPL".
const VENDOR: u32 = 0x4C50_5243;
/// The register that resets a queue, of which the bindings do not know yet (section 4.2.2).
const QUEUE_RESET: u32 = 0x0C0;

/// A device behind its register window.
pub struct Mmio(Core);

impl Mmio {
    /// Offset of the register that the driver notifies the device by: its value is the queue's number.
    pub const NOTIFY: u64 = VIRTIO_MMIO_QUEUE_NOTIFY as u64;

    /// Puts a device behind registers, in its reset state; it has one interrupt for all. The runners that come with it must
    /// be run, or dropped when nothing is to be expected of the device any more: until then, a reset by the driver waits for
    /// them. The error is that of creating an eventfd.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
        irq: impl InterruptSink + 'static,
    ) -> io::Result<(Self, Vec<Runner>)> {
        let (core, runners) = Core::new(device, memory, Box::new(irq))?;
        Ok((Self(core), runners))
    }

    /// What tells the workers of a notification, queue by queue; a hypervisor may signal these itself.
    pub fn kicks(&self) -> impl Iterator<Item = &EventFd> {
        self.0.kicks()
    }

    fn read_register(&self, register: u32) -> u32 {
        match register {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.0.device_type(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => self.0.selected_features(),
            VIRTIO_MMIO_QUEUE_NUM_MAX => self.0.max_queue_size().into(),
            VIRTIO_MMIO_QUEUE_READY => self.0.is_queue_ready().into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.0.interrupt_state().status,
            VIRTIO_MMIO_STATUS => self.0.status(),
            VIRTIO_MMIO_CONFIG_GENERATION => self.0.interrupt_state().generation,
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
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.0.select_device_features(value),
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.0.select_driver_features(value),
            VIRTIO_MMIO_DRIVER_FEATURES => self.0.accept_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.0.select_queue(value),
            VIRTIO_MMIO_QUEUE_READY => self.0.set_queue_ready(value != 0),
            VIRTIO_MMIO_QUEUE_NOTIFY => self.0.notify(value),
            VIRTIO_MMIO_INTERRUPT_ACK => self.0.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.0.set_status(value),
            QUEUE_RESET if value == 1 => self.0.reset_queue(),
            _ => {
                if let Some(rings) = self.0.rings() {
                    set_up(rings, register, value);
                }
            }
        }
    }
}

impl BusDevice for Mmio {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            self.0.read_config(offset, data);
        } else if let (Some(register), Ok(data)) = (register(offset), <&mut [u8; 4]>::try_from(data)) {
            *data = self.read_register(register).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(VIRTIO_MMIO_CONFIG.into()) {
            self.0.write_config(offset, data);
        } else if let (Some(register), Ok(data)) = (register(offset), <[u8; 4]>::try_from(data)) {
            self.write_register(register, u32::from_le_bytes(data));
        }
    }
}

/// Writes a register of a queue's rings.
fn set_up(rings: &mut Rings, register: u32, value: u32) {
    match register {
        // No queue can have 0 entries, so that stands for what does not fit.
        VIRTIO_MMIO_QUEUE_NUM => rings.size = u16::try_from(value).unwrap_or(0),
        VIRTIO_MMIO_QUEUE_DESC_LOW => set_low(&mut rings.descriptors, value),
        VIRTIO_MMIO_QUEUE_DESC_HIGH => set_high(&mut rings.descriptors, value),
        VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_low(&mut rings.available, value),
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_high(&mut rings.available, value),
        VIRTIO_MMIO_QUEUE_USED_LOW => set_low(&mut rings.used, value),
        VIRTIO_MMIO_QUEUE_USED_HIGH => set_high(&mut rings.used, value),
        _ => {}
    }
}

/// The register at this offset, if one can begin there.
fn register(offset: u64) -> Option<u32> {
    const REGISTERS: RangeInclusive<u64> = 0..=VIRTIO_MMIO_CONFIG as u64 - 4;
    (REGISTERS.contains(&offset) && offset.is_multiple_of(4)).then_some(offset as u32)
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & u64::from(u32::MAX) | u64::from(value) << 32;
}

#[cfg(test)]
mod tests;
