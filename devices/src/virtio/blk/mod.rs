//! Block device (section 5.2): a file or block device of the host as the guest's disk.
//!
//! A `storage::Storage` holds the disk's bytes and knows nothing of virtio. A `request` is what a driver asks of it, checked. A
//! `worker` takes requests from a queue, has an `engine` bring them before the host, and answers them.

mod block_device;
mod config;
mod engine;
mod ephemeral;
mod lock;
mod qcow2;
mod raw;
mod request;
mod storage;
mod transfer;
mod whole;
mod worker;

use std::error::Error;
use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::interrupt::Interrupt;
use super::rate::RateLimiter;
use super::{Checked, DeviceConfig, GuestLimits, OpenContext, Opened, VirtioDevice, Worker, read_bytes};
use crate::registry::{Key, Kind, Value};
use engine::Choice;
use ephemeral::Ephemeral;
use qcow2::Qcow2Image;
use raw::{ImageError, RawImage};
use request::{ID_BYTES, SECTOR};
use storage::{Disk, Storage};
use worker::{BlkWorker, Limits};

/// Device type (section 5).
const DEVICE_TYPE: u32 = 2;
/// As many as QEMU gives a disk: Linux keeps no more requests than this in flight, and a request's buffers fit as well.
const QUEUE_SIZE: u16 = 256;

/// Logical block sizes in bytes: those that disks are sold with.
const BLOCK_SIZES: [u64; 2] = [SECTOR, 4096];
/// Each queue is a thread.
const MOST_QUEUES: u64 = 16;

/// Whatever is written is on disk when a flush after it is answered; larger reads and writes stay whole.
const FEATURES: u64 = 1 << VIRTIO_BLK_F_SIZE_MAX
    | 1 << VIRTIO_BLK_F_SEG_MAX
    | 1 << VIRTIO_BLK_F_BLK_SIZE
    | 1 << VIRTIO_BLK_F_FLUSH
    | 1 << VIRTIO_BLK_F_TOPOLOGY;
/// What a disk that can be written to has as well.
const WRITABLE_FEATURES: u64 = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;

/// Name, keys and help.
static KIND: Kind = Kind {
    name: "blk",
    about: "A disk (virtio-blk)",
    keys: &[
        Key {
            name: "path",
            about: "its image: a file or a block device",
            value: Value::Text,
            default: "must be given",
        },
        Key { name: "ro", about: "the guest cannot write to it", value: Value::Flag, default: "it can" },
        Key {
            name: "id",
            about: "serial number, up to 20 bytes of ASCII",
            value: Value::Text,
            default: "an empty one",
        },
        Key {
            name: "format",
            about: "what the image is; it is never guessed",
            value: Value::OneOf(&["raw", "qcow2"]),
            default: "raw",
        },
        Key {
            name: "ephemeral",
            about: "what the guest writes is thrown away at its end; the image is only read",
            value: Value::Flag,
            default: "it is kept",
        },
        Key {
            name: "direct",
            about: "reads and writes of whole pages pass by the host's page cache",
            value: Value::Flag,
            default: "they go through it",
        },
        Key {
            name: "engine",
            about: "what waits for the host",
            value: Value::OneOf(&["uring", "threads"]),
            default: "uring for raw images where the host has it",
        },
        Key {
            name: "block-size",
            about: "logical block size in bytes, 512 or 4096; the image has whole blocks",
            value: Value::Size,
            default: "512",
        },
        Key { name: "queues", about: "how many, up to 16, each with a thread", value: Value::Number, default: "1" },
        Key { name: "rate", about: "bytes per second, all queues together", value: Value::Size, default: "no limit" },
        Key {
            name: "ops",
            about: "requests per second, all queues together",
            value: Value::Number,
            default: "no limit",
        },
    ],
    bare: Some("path"),
    example: "--device blk,path=disk.img,ro,id=data",
    standard: false,
    single: false,
};

/// A disk.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BlkConfig {
    /// Its image: a file or a block device.
    #[serde(default)]
    pub path: PathBuf,
    /// The guest cannot write to it.
    #[serde(default)]
    pub ro: bool,
    /// Serial number, up to 20 bytes of ASCII.
    #[serde(default)]
    pub id: String,
    /// What the image is.
    #[serde(default)]
    pub format: Format,
    /// What the guest writes is thrown away at its end.
    #[serde(default)]
    pub ephemeral: bool,
    /// Reads and writes of whole pages pass by the host's page cache.
    #[serde(default)]
    pub direct: bool,
    /// What waits for the host; the best that it has, if none is named.
    pub engine: Option<EngineKind>,
    /// Logical block size in bytes.
    #[serde(default = "sector", rename = "block-size")]
    pub block_size: u64,
    /// How many queues, each with a thread.
    #[serde(default = "one")]
    pub queues: NonZeroU64,
    /// Bytes per second, all queues together.
    pub rate: Option<NonZeroU64>,
    /// Requests per second, all queues together.
    pub ops: Option<NonZeroU64>,
}

/// What an image is.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk's bytes, one after the other.
    #[default]
    Raw,
    /// QEMU's format, version 2 or 3.
    Qcow2,
}

/// What waits for the host.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// io_uring.
    Uring,
    /// Threads.
    Threads,
}

const fn sector() -> u64 {
    SECTOR
}

const fn one() -> NonZeroU64 {
    NonZeroU64::MIN
}

impl DeviceConfig for BlkConfig {
    const KIND: &'static Kind = &KIND;

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn check(&self, _guest: GuestLimits) -> Checked {
        if self.path.as_os_str().is_empty() {
            return Err("A disk needs an image: `path=FILE`".into());
        }
        serial_number(&self.id)?;
        let queues = self.queues.get();
        if queues > MOST_QUEUES {
            return Err(format!("A disk has up to {MOST_QUEUES} queues, not {queues}").into());
        }
        if !BLOCK_SIZES.contains(&self.block_size) {
            let [small, large] = BLOCK_SIZES;
            return Err(format!("A disk has blocks of {small} or {large} bytes, not {}", self.block_size).into());
        }
        let in_place = self.format == Format::Raw && !self.ephemeral;
        if self.engine == Some(EngineKind::Uring) && !in_place {
            return Err("`engine=uring` is for raw images that are written to in place".into());
        }
        Ok(())
    }

    fn check_beside(&self, other: &Self) -> Result<(), String> {
        let path = self.path.display();
        if self.path == other.path && !(self.reads_only() && other.reads_only()) {
            return Err(format!("have the same image {path}; only `ro` can be shared"));
        }
        Ok(())
    }

    fn open(&self, _context: &OpenContext<'_>) -> Opened {
        let id = serial_number(&self.id)?;
        let (name, (storage, choice)) = (self.path.display().to_string(), self.storage()?);
        if self.block_size != SECTOR && !storage.size().is_multiple_of(self.block_size) {
            return Err(ImageError::Blocks { path: name, size: storage.size(), block: self.block_size }.into());
        }
        let disk = Disk::new(name, storage, self.ro, id).with_blocks(self.block_size);
        // No queue knows what the others do.
        let queues = self.queues.get();
        let share = |rate: Option<NonZeroU64>| RateLimiter::new(rate.map(|all| (all.get() / queues).max(1)));
        let limits = (0..queues).map(|_| Ok(Limits { bytes: share(self.rate)?, operations: share(self.ops)? }));
        Ok(Box::new(Blk::new(disk, choice, limits.collect::<io::Result<_>>()?)))
    }
}

impl BlkConfig {
    const fn reads_only(&self) -> bool {
        self.ro || self.ephemeral
    }

    /// The image, and where changes go; and the engine for it, as the user wants.
    fn storage(&self) -> Result<(Arc<dyn Storage>, Choice), Box<dyn Error + Send + Sync>> {
        let open_raw = || RawImage::open(&self.path, self.reads_only(), self.direct);
        let image: Arc<dyn Storage> = match self.format {
            Format::Raw if !self.ephemeral => {
                let image = Arc::new(open_raw()?);
                let in_threads = self.engine == Some(EngineKind::Threads);
                let choice = if in_threads { Choice::Threads } else { Choice::Uring(Arc::clone(&image)) };
                return Ok((image, choice));
            }
            Format::Raw => Arc::new(open_raw()?),
            Format::Qcow2 => Arc::new(Qcow2Image::open(&self.path, self.reads_only(), self.direct)?),
        };
        if !self.ephemeral {
            return Ok((image, Choice::Threads));
        }
        let directory = || std::env::temp_dir().display().to_string();
        let overlaid = Ephemeral::new(image).map_err(|source| NoPlace { directory: directory(), source })?;
        Ok((Arc::new(overlaid), Choice::Threads))
    }
}

/// Nowhere to keep what the guest writes.
#[derive(Debug, Error)]
#[error("Cannot keep what the guest writes in {directory} (TMPDIR names another place)")]
struct NoPlace {
    directory: String,
    source: io::Error,
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
    choice: Choice,
    /// One for each queue; taken by their workers.
    limits: Vec<Limits>,
    queues: u16,
    config: Vec<u8>,
}

impl Blk {
    fn new(disk: Disk, choice: Choice, limits: Vec<Limits>) -> Self {
        let queues = limits.len() as u16;
        Self { config: config::space(disk.sectors, queues, disk.block), disk: Arc::new(disk), choice, limits, queues }
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let access = if self.disk.read_only { 1 << VIRTIO_BLK_F_RO } else { WRITABLE_FEATURES };
        let queues = u64::from(self.queues > 1) << VIRTIO_BLK_F_MQ;
        FEATURES | access | queues
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.into()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn workers(&mut self, _interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
        let limits = self.limits.drain(..).enumerate();
        let worker =
            |(queue, limits)| BlkWorker::new(Arc::clone(&self.disk), queue, QUEUE_SIZE, self.choice.clone(), limits);
        limits.map(|limits| Box::new(worker(limits)) as Box<dyn Worker>).collect()
    }
}

#[cfg(test)]
mod tests;
