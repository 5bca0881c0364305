//! A driver's knowledge of registers and rings, for tests and fuzz targets: how virtio lays out what a device finds.
//!
//! Nothing here trusts the device, and no rule keeps a user of it from nonsense: hostile drivers are made of it as well.

use std::sync::atomic::Ordering;

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::transport::mmio::Mmio;
use crate::bus::BusDevice as _;

/// Descriptor flag (section 2.7.5): another descriptor follows.
pub const NEXT: u16 = 1;
/// Descriptor flag: the buffer is for the device to write.
pub const WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// Offsets of registers (section 4.2.2).
pub mod register {
    /// 32 of the features that the device offers.
    pub const DEVICE_FEATURES: u64 = 0x10;
    /// Which 32 those are.
    pub const DEVICE_FEATURES_SELECT: u64 = 0x14;
    /// 32 of the features that the driver accepts.
    pub const DRIVER_FEATURES: u64 = 0x20;
    /// Which 32 those are.
    pub const DRIVER_FEATURES_SELECT: u64 = 0x24;
    /// The queue that the queues' registers are about.
    pub const QUEUE_SELECT: u64 = 0x30;
    /// The most entries that it can have; 0 if there is none.
    pub const QUEUE_SIZE_MAX: u64 = 0x34;
    /// Its entries.
    pub const QUEUE_SIZE: u64 = 0x38;
    /// Whether it is enabled.
    pub const QUEUE_READY: u64 = 0x44;
    /// A queue that has new buffers.
    pub const NOTIFY: u64 = 0x50;
    /// What the interrupt is about.
    pub const INTERRUPT_STATUS: u64 = 0x60;
    /// What of it the driver has seen.
    pub const INTERRUPT_ACK: u64 = 0x64;
    /// Device status.
    pub const STATUS: u64 = 0x70;
    /// Low half of the descriptor table's address; the high half follows.
    pub const DESCRIPTORS: u64 = 0x80;
    /// The available ring's, likewise.
    pub const AVAILABLE: u64 = 0x90;
    /// The used ring's, likewise.
    pub const USED: u64 = 0xA0;
    /// Resets the queue.
    pub const QUEUE_RESET: u64 = 0xC0;
    /// Configuration space.
    pub const CONFIG: u64 = 0x100;
}
use register as r;

/// A descriptor: address, length, flags, next.
pub type Descriptor = (u64, u32, u16, u16);

/// Reads a register.
pub fn read(mmio: &mut Mmio, register: u64) -> u32 {
    let mut data = [0x55; 4];
    mmio.read(register, &mut data);
    u32::from_le_bytes(data)
}

/// Writes a register.
pub fn write(mmio: &mut Mmio, register: u64, value: u32) {
    mmio.write(register, &value.to_le_bytes());
}

/// Writes a descriptor to a guest physical address. It panics if no memory is there, as do the functions of [`Ring`].
pub fn write_descriptor(memory: &GuestMemoryMmap, at: u64, (address, length, flags, next): Descriptor) {
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(length.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(next.to_le_bytes());
    memory.write_slice(&bytes, GuestAddress(at)).expect("There is memory");
}

/// A split virtqueue as its driver knows it.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Number of entries.
    pub size: u16,
    /// Guest physical addresses of descriptor table, available ring and used ring.
    pub places: [u64; 3],
    /// The available ring's index.
    pub available: u16,
    /// How far the driver has looked at the used ring.
    pub used: u16,
}

impl Ring {
    /// A queue with nothing in it.
    pub const fn new(size: u16, places: [u64; 3]) -> Self {
        Self { size, places, available: 0, used: 0 }
    }

    /// Tells the device where the queue is, and enables it; returns whether it is enabled.
    pub fn enable(&self, mmio: &mut Mmio, queue: u32) -> bool {
        write(mmio, r::QUEUE_SELECT, queue);
        write(mmio, r::QUEUE_SIZE, self.size.into());
        for (register, address) in [r::DESCRIPTORS, r::AVAILABLE, r::USED].into_iter().zip(self.places) {
            write(mmio, register, address as u32);
            write(mmio, register + 4, (address >> 32) as u32);
        }
        write(mmio, r::QUEUE_READY, 1);
        read(mmio, r::QUEUE_READY) == 1
    }

    /// Writes a descriptor of the table.
    pub fn set_descriptor(&self, memory: &GuestMemoryMmap, index: u16, descriptor: Descriptor) {
        write_descriptor(memory, self.places[0] + 16 * u64::from(index), descriptor);
    }

    /// Makes a chain available without a notification.
    pub fn publish(&mut self, memory: &GuestMemoryMmap, head: u16) {
        let slot = self.places[1] + 4 + 2 * u64::from(self.available % self.size);
        memory.write_obj(head, GuestAddress(slot)).expect("There is memory");
        self.set_available(memory, self.available.wrapping_add(1));
    }

    /// Writes the available ring's index.
    pub fn set_available(&mut self, memory: &GuestMemoryMmap, index: u16) {
        self.available = index;
        memory.store(index, GuestAddress(self.places[1] + 2), Ordering::Release).expect("There is memory");
    }

    /// The used ring's index.
    pub fn used_index(&self, memory: &GuestMemoryMmap) -> u16 {
        memory.load(GuestAddress(self.places[2] + 2), Ordering::Acquire).expect("There is memory")
    }

    /// The next used element: head and bytes written.
    pub fn poll_used(&mut self, memory: &GuestMemoryMmap) -> Option<(u32, u32)> {
        if self.used_index(memory) == self.used {
            return None;
        }
        let element = self.places[2] + 4 + 8 * u64::from(self.used % self.size);
        self.used = self.used.wrapping_add(1);
        let field = |at| memory.read_obj(GuestAddress(at)).expect("There is memory");
        Some((field(element), field(element + 4)))
    }
}
