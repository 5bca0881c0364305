//! Block device (section 5.2): a file or block device of the host as the guest's disk.
//!
//! A [`storage::Storage`] holds the disk's bytes and knows nothing of virtio. A [`request`] is what a driver asks of it, checked. A
//! [`worker`] takes requests from a queue and answers them.

mod config;
mod lock;
mod raw;
mod request;
mod storage;
mod transfer;
mod worker;

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
    VIRTIO_BLK_F_TOPOLOGY,
};

use super::interrupt::Interrupt;
use super::{Opened, VirtioDevice, VirtioKind, Worker, read_bytes};
use crate::registry::{Key, Kind, Options, Value};
use raw::RawImage;
use request::ID_BYTES;
use storage::Disk;
use worker::BlkWorker;

/// Device type (section 5).
const DEVICE_TYPE: u32 = 2;
/// As many as QEMU gives a disk: Linux keeps no more requests than this in flight, and a request's buffers fit as well.
const QUEUE_SIZE: u16 = 256;

/// Whatever is written is on disk when a flush after it is answered; larger reads and writes stay whole.
const FEATURES: u64 = 1 << VIRTIO_BLK_F_SIZE_MAX
    | 1 << VIRTIO_BLK_F_SEG_MAX
    | 1 << VIRTIO_BLK_F_BLK_SIZE
    | 1 << VIRTIO_BLK_F_FLUSH
    | 1 << VIRTIO_BLK_F_TOPOLOGY;

/// The block device for `--device`.
pub static KIND: VirtioKind = VirtioKind {
    kind: Kind {
        name: "blk",
        about: "A disk (virtio-blk)",
        keys: &[
            Key { name: "path", about: "its image: a file or a block device", value: Value::Text, default: "none" },
            Key { name: "ro", about: "the guest cannot write to it", value: Value::Flag, default: "it can" },
            Key {
                name: "id",
                about: "serial number, up to 20 bytes of ASCII",
                value: Value::Text,
                default: "an empty one",
            },
        ],
        example: "--device blk,path=disk.img,ro,id=data",
        standard: false,
    },
    open,
};

fn open(options: &Options) -> Opened {
    let path = Path::new(options.get("path").ok_or("A disk needs an image: `path=FILE`")?);
    let read_only = options.has("ro");
    let id = serial_number(options.get("id").unwrap_or_default())?;
    let image = RawImage::open(path, read_only)?;
    Ok(Box::new(Blk::new(Disk::new(path.display().to_string(), Box::new(image), read_only, id))))
}

/// The answer to a driver that asks for the serial number: zeros behind it if it is shorter.
fn serial_number(id: &str) -> Result<[u8; ID_BYTES], Box<dyn Error + Send + Sync>> {
    let mut bytes = [0; ID_BYTES];
    if id.len() > ID_BYTES || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("The serial number `{id}` is not 1 to {ID_BYTES} bytes of printable ASCII").into());
    }
    bytes[..id.len()].copy_from_slice(id.as_bytes());
    Ok(bytes)
}

struct Blk {
    disk: Arc<Disk>,
    config: Vec<u8>,
}

impl Blk {
    fn new(disk: Disk) -> Self {
        Self { config: config::space(disk.sectors), disk: Arc::new(disk) }
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        FEATURES | u64::from(self.disk.read_only) << VIRTIO_BLK_F_RO
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn workers(&mut self, _interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
        vec![Box::new(BlkWorker::new(Arc::clone(&self.disk), 0))]
    }
}

#[cfg(test)]
mod tests;
