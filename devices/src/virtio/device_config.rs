//! What a kind of device is configured by: its keys, defaults and rules, and how the device is made.

use std::cell::OnceCell;
use std::error::Error;
use std::fmt::Debug;
use std::ops::Range;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::VirtioDevice;
use super::backing::RamBacking;
use super::console::handle::ConsoleHandle;
use crate::key_values::{self, KeyValues, OptionError};
use crate::registry::Kind;

/// Nothing, or why there can be no such device.
pub type Checked = Result<(), Box<dyn Error + Send + Sync>>;

/// A new device, or why there is none.
pub type Opened = Result<Box<dyn VirtioDevice>, Box<dyn Error + Send + Sync>>;

/// The guest that a device is for, as far as rules of devices look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestLimits {
    /// Its memory in bytes.
    pub mem: u64,
}

/// The configuration of a kind of device.
pub trait DeviceConfig: Clone + Debug + PartialEq + DeserializeOwned + Serialize + Sized {
    /// Name, keys and help.
    const KIND: &'static Kind;

    /// Whether such a device is opened after all others. Those that make files empty are: nothing is lost for the want of
    /// another device, and by then images are locked.
    const OPENS_LAST: bool = false;

    /// Reads what a text says.
    fn from_text(values: &KeyValues) -> Result<Self, OptionError> {
        values.read()
    }

    /// Texts that say all of it.
    fn texts(&self) -> Vec<String> {
        vec![key_values::write(Self::KIND, self)]
    }

    /// Takes what another text says about the same device, where texts add up; otherwise returns it.
    fn join(&mut self, other: Self) -> Result<(), Self> {
        Err(other)
    }

    /// The files of the host that it uses.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Whether a guest can have such a device, as far as that can be told without the host.
    fn check(&self, _guest: GuestLimits) -> Checked {
        Ok(())
    }

    /// Whether a guest can have this device beside another one of its kind; if not, what both do wrong.
    fn check_beside(&self, _other: &Self) -> Result<(), String> {
        Ok(())
    }

    /// The memory, besides RAM, that it shares with the guest: the plan finds guest physical addresses for each, and
    /// the device gets them when it is opened.
    fn shm(&self) -> Vec<ShmRequest> {
        Vec::new()
    }

    /// Makes the device, with all that it needs of the host.
    fn open(&self, context: &OpenContext<'_>) -> Opened;
}

/// A region of memory that a device shares with the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmRequest {
    /// What maps call it: no other region of the guest's has this name.
    pub name: String,
    /// Its size in bytes, a positive multiple of the guest's pages.
    pub size: u64,
}

/// Where the guest has such a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmRegion {
    /// The name that it was asked for by.
    pub name: String,
    /// Guest physical addresses.
    pub range: Range<u64>,
}

/// What a device is told of its guest when it is opened.
#[derive(Clone, Copy, Default)]
pub struct OpenContext<'a> {
    /// The regions that it asked for by [`DeviceConfig::shm`], in that order.
    pub shm: &'a [ShmRegion],
    /// What stands behind the guest's RAM.
    pub ram: RamBacking,
    /// Where a console device leaves the way to its ports.
    pub console: Option<&'a OnceCell<ConsoleHandle>>,
}
