//! Why a device cannot be placed on a bus.

use std::fmt;

/// Why a device cannot be placed on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range contains no address.
    #[error("{bus} range of {name} at {base:#x} is empty")]
    Empty {
        /// Name of the bus.
        bus: &'static str,
        /// Name of the device.
        name: String,
        /// First address.
        base: u64,
    },
    /// The range, or the device offsets that it shows, reach beyond 64 bits.
    #[error("{bus} range of {name} at {base:#x} with {len:#x} bytes does not fit 64 bits")]
    Wraps {
        /// Name of the bus.
        bus: &'static str,
        /// Name of the device.
        name: String,
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Another device is there.
    #[error("{bus} range {range} of {name} overlaps {other_range} of {other}")]
    Overlap {
        /// Name of the bus.
        bus: &'static str,
        /// Name of the device that was to be placed.
        name: String,
        /// Where it was to be placed.
        range: Span,
        /// Name of the device that is in the way.
        other: String,
        /// Where that one is.
        other_range: Span,
    },
}

/// A range of addresses with at least one byte; it may end at 2^64. Shown with an exclusive end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Span {
    /// Last address.
    pub(super) fn last(self) -> u64 {
        self.base + (self.len - 1)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = u128::from(self.last()) + 1;
        write!(f, "{:#x}-{end:#x}", self.base)
    }
}
