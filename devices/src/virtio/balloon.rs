//! Memory balloon (section 5.5): what the guest does not need of its memory goes back to the host.
//!
//! It does so in two ways. The balloon takes pages up to a size that the host wishes for; and whenever the guest has large
//! free blocks, it reports them, and may use them again at any time without asking.

mod discard;
mod host_pages;
mod statistics;

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use event_manager::{EventOps, Events};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend as _};

use super::chain::Chain;
use super::interrupt::Interrupt;
use super::queue::{Fault, Queues};
use super::{Checked, DeviceConfig, GuestLimits, OpenContext, Opened, VirtioDevice, Worker};
use crate::registry::{Key, Kind, Value};
use crate::units;
use discard::Discard;
use host_pages::HostPages;
use statistics::Statistics;

/// Device type (section 5).
const DEVICE_TYPE: u32 = 5;
/// Linux has one request at a time in each queue, and 32 blocks in a report (mm/page_reporting.c).
const QUEUE_SIZE: u16 = 64;
/// A page of the balloon has 4 KiB, whatever the guest's and the host's have (section 5.5.6).
const PAGE: u64 = 4096;
/// So many pages of one request are looked at: more than Linux' 256, and few enough for a thread that others share.
const REQUEST_PAGES: u64 = 4096;

/// Feature bits (section 5.5.3).
const STATS_VQ: u32 = 1;
const DEFLATE_ON_OOM: u32 = 2;
const PAGE_POISON: u32 = 4;
const PAGE_REPORTING: u32 = 5;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// The queues from here on are numbered without gaps, by what is negotiated: as Linux and other monitors do, while the
/// specification gives fixed numbers.
const FIRST_OPTIONAL: usize = 2;

/// Where the driver writes to configuration space (section 5.5.4).
const ACTUAL: usize = 4;
const POISON: usize = 12;

/// Name, keys and help.
static KIND: Kind = Kind {
    name: "balloon",
    about: "Gives the guest's free memory back to the host (virtio-balloon)",
    keys: &[
        Key { name: "size", about: "memory that the guest shall give up", value: Value::Size, default: "0" },
        Key {
            name: "oom",
            about: "what a guest out of memory does: take it back, or keep its promise",
            value: Value::OneOf(&["deflate", "keep"]),
            default: "deflate",
        },
        Key {
            name: "stats",
            about: "log what the guest says of its memory, every so many seconds (with -v)",
            value: Value::Number,
            default: "never",
        },
    ],
    bare: None,
    example: "--device balloon,size=256M",
    standard: true,
    single: true,
};

/// A memory balloon.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonConfig {
    /// Memory that the guest shall give up, in bytes.
    #[serde(default)]
    pub size: u64,
    /// What a guest out of memory does with it.
    #[serde(default)]
    pub oom: OutOfMemory,
    /// Between two logs of what the guest says of its memory, in seconds.
    pub stats: Option<NonZeroU64>,
}

/// What a guest out of memory does with its balloon.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutOfMemory {
    /// Take memory back.
    #[default]
    Deflate,
    /// Keep its promise.
    Keep,
}

/// A balloon that no guest can have.
#[derive(Debug, Error)]
enum SizeError {
    #[error("A balloon of {size} bytes is larger than {max}")]
    TooLarge { size: u64, max: u64 },
    #[error(
        "It would take all of the guest's memory, which is {}: its `size` must be smaller",
        units::size_words(*mem)
    )]
    AllMemory { mem: u64 },
}

impl BalloonConfig {
    /// Pages that it shall have.
    fn pages(&self) -> Result<u32, SizeError> {
        let max = u64::from(u32::MAX) * PAGE;
        u32::try_from(self.size / PAGE).map_err(|_| SizeError::TooLarge { size: self.size, max })
    }
}

impl DeviceConfig for BalloonConfig {
    const KIND: &'static Kind = &KIND;

    fn check(&self, guest: GuestLimits) -> Checked {
        self.pages()?;
        if self.size > 0 && self.size >= guest.mem {
            // Linux would look for the last page for ever.
            return Err(SizeError::AllMemory { mem: guest.mem }.into());
        }
        Ok(())
    }

    fn open(&self, context: &OpenContext<'_>) -> Opened {
        let pages = self.pages()?;
        let discard = Discard::new(context.ram);
        let mut features = 1 << PAGE_POISON;
        // What is free may be wanted at any moment, and a guest dies of a page that the pool no longer has. What the
        // balloon takes, somebody wished to have.
        if !discard.is_pooled() {
            features |= 1 << PAGE_REPORTING;
        }
        if self.oom == OutOfMemory::Deflate {
            features |= 1 << DEFLATE_ON_OOM;
        }
        let interval = self.stats.map(|seconds| Duration::from_secs(seconds.get()));
        if interval.is_some() {
            features |= 1 << STATS_VQ;
        }
        let poison = Arc::new(AtomicU32::new(0));
        let statistics = Statistics::new(interval)?;
        let host_pages = HostPages::new(discard.page());
        let worker = BalloonWorker { features: 0, poison: Arc::clone(&poison), statistics, discard, host_pages };
        Ok(Box::new(Balloon { features, pages, actual: 0, poison, worker: Some(worker) }))
    }
}

struct Balloon {
    features: u64,
    /// Pages that the balloon shall have ...
    pages: u32,
    /// ... and that it has, as the guest says.
    actual: u32,
    /// What the guest fills its free pages with.
    poison: Arc<AtomicU32>,
    worker: Option<BalloonWorker>,
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; FIRST_OPTIONAL + 2]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 16];
        config[..ACTUAL].copy_from_slice(&self.pages.to_le_bytes());
        config[ACTUAL..ACTUAL + 4].copy_from_slice(&self.actual.to_le_bytes());
        config[POISON..].copy_from_slice(&self.poison.load(Ordering::Relaxed).to_le_bytes());
        super::read_bytes(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return };
        match usize::try_from(offset) {
            Ok(ACTUAL) => self.actual = value,
            Ok(POISON) => self.poison.store(value, Ordering::Relaxed),
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.actual = 0;
        self.poison.store(0, Ordering::Relaxed);
    }

    fn workers(&mut self, _interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
        self.worker.take().into_iter().map(|worker| Box::new(worker) as Box<dyn Worker>).collect()
    }
}

struct BalloonWorker {
    features: u64,
    poison: Arc<AtomicU32>,
    statistics: Statistics,
    discard: Discard,
    host_pages: HostPages,
}

impl BalloonWorker {
    fn has(&self, feature: u32) -> bool {
        self.features >> feature & 1 != 0
    }

    fn statistics_queue(&self) -> Option<usize> {
        self.has(STATS_VQ).then_some(FIRST_OPTIONAL)
    }

    fn reporting_queue(&self) -> Option<usize> {
        let before = self.statistics_queue().map_or(0, |_| 1);
        self.has(PAGE_REPORTING).then_some(FIRST_OPTIONAL + before)
    }

    /// Lets go of the pages that the chain lists, as far as they make whole pages of the host's.
    fn inflate(&mut self, chain: &Chain) -> Result<(), Fault> {
        let (mut pages, mut size) = (listed(chain)?, PAGE);
        if self.host_pages.are_larger() {
            pages = pages.into_iter().filter_map(|page| self.host_pages.insert(page)).collect();
            pages.dedup();
            size = self.discard.page() as u64;
        }
        // Neighbours go together: a system call for each would cost more than the rest.
        for run in pages.chunk_by(|left, right| left + size == *right) {
            for slice in chain.memory().get_slices(GuestAddress(run[0]), run.len() * size as usize) {
                self.discard.discard(&slice.map_err(Fault::Access)?);
            }
        }
        Ok(())
    }

    /// Takes the pages that the chain lists out of the balloon: they are there again when the guest touches them, if no
    /// pool must have one for that.
    fn deflate(&mut self, chain: &Chain) -> Result<(), Fault> {
        if !self.host_pages.are_larger() {
            return Ok(());
        }
        for page in listed(chain)? {
            let Some(start) = self.host_pages.remove(page).filter(|_| self.discard.is_pooled()) else { continue };
            let slice = chain.memory().get_slice(GuestAddress(start), self.discard.page()).map_err(Fault::Access)?;
            if let Err(error) = self.discard.populate(&slice) {
                log::debug!("The host has no huge page for {start:#x}: {error}");
                return Err(Fault::Request("The host has no huge page left for memory that the guest takes back"));
            }
        }
        Ok(())
    }

    /// A guest that fills free pages with a value finds them so, and the host has no pages but those of zeros.
    fn report(&self, chain: &Chain) -> Result<(), Fault> {
        let poison = if self.has(PAGE_POISON) { self.poison.load(Ordering::Relaxed) } else { 0 };
        if poison == 0 {
            chain.writable().slices(0, u64::MAX)?.iter().for_each(|slice| self.discard.discard(slice));
        }
        Ok(())
    }
}

impl Worker for BalloonWorker {
    fn queues(&self) -> Range<usize> {
        0..FIRST_OPTIONAL + 2
    }

    fn register(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        self.statistics.register(0, ops)
    }

    fn start(&mut self, features: u64) {
        self.features = features;
        self.host_pages.clear();
    }

    fn kick(&mut self, number: usize, queues: &mut Queues) -> Result<(), Fault> {
        let Some(queue) = queues.get(number) else { return Ok(()) };
        if self.statistics_queue() == Some(number) {
            return self.statistics.answer(queue);
        }
        let reporting = self.reporting_queue() == Some(number);
        if !reporting && number > DEFLATE {
            return Ok(());
        }
        // Other devices have their turn after each chain, for one can mean much work.
        if let Some(chain) = queue.pop()? {
            match number {
                INFLATE => self.inflate(&chain)?,
                DEFLATE => self.deflate(&chain)?,
                _ => self.report(&chain)?,
            }
            queue.complete(chain, 0)?;
            queue.come_back();
        }
        Ok(())
    }

    fn event(&mut self, _events: Events, queues: &mut Queues, _ops: &mut EventOps) -> Result<(), Fault> {
        let queue = self.statistics_queue().and_then(|number| queues.get(number));
        self.statistics.ask(queue)
    }

    fn stop(&mut self, queue: usize) {
        if self.statistics_queue() == Some(queue) {
            self.statistics.stop();
        }
    }
}

/// The pages that the chain lists, sorted, each once. Those that the guest does not have are skipped.
fn listed(chain: &Chain) -> Result<Vec<u64>, Fault> {
    let mut list = vec![0; chain.readable().len().min(4 * REQUEST_PAGES) as usize];
    chain.readable().read(0, &mut list)?;
    let (list, _) = list.as_chunks::<4>();
    let address = |&frame: &[u8; 4]| u64::from(u32::from_le_bytes(frame)) * PAGE;
    let exists = |&start: &u64| chain.memory().check_range(GuestAddress(start), PAGE as usize);
    let mut pages: Vec<_> = list.iter().map(address).filter(exists).collect();
    pages.sort_unstable();
    pages.dedup();
    Ok(pages)
}

#[cfg(test)]
mod tests;
