//! The rows of a layout's table.

use std::ops::Range;

use super::{Arch, Boot, Gic, Kind, RowName};
use crate::board::Board;

/// Where a row starts. An address is in bytes; a named row stands earlier in the same table.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// At this address.
    At(u64),
    /// So that it ends at this address.
    EndingAt(u64),
    /// At the first aligned address that is at or after the end of every one of `rows` that is present, and `floor`.
    After {
        /// Rows to stay behind.
        rows: &'static [RowName],
        /// The lowest address.
        floor: u64,
    },
    /// The same, and at or above the middle of a region, but not more than `most` above its start.
    AfterHalf {
        /// Rows to stay behind.
        rows: &'static [RowName],
        /// The region whose middle counts.
        of: RowName,
        /// The most that counts of its half, in bytes.
        most: u64,
    },
    /// At the highest aligned address from which it ends inside `row`, which must be at or after the end of every one of
    /// `above` that is present.
    TopOf {
        /// The region to be at the end of.
        row: RowName,
        /// Rows that must lie below.
        above: &'static [RowName],
    },
}

/// How large a row is. A row whose size comes to 0 is absent.
#[derive(Clone, Copy, Debug)]
pub enum Size {
    /// This many bytes.
    Bytes(u64),
    /// RAM that earlier rows did not take, at most this many bytes.
    Ram {
        /// The window's size in bytes.
        max: u64,
    },
    /// This many bytes for each vCPU.
    PerVcpu(u64),
    /// What the kernel occupies while it runs.
    Kernel {
        /// The lowest address for a kernel that names its own.
        lowest: u64,
    },
    /// The initial RAM disk's size.
    Initrd,
    /// The firmware image's size.
    Firmware,
    /// The last bytes of the firmware image, at most this many.
    FirmwareTail {
        /// Upper bound in bytes.
        max: u64,
    },
    /// As large as devices asked for: the row is a region for each of [`Inputs::shm`](super::Inputs::shm), one after
    /// the other, each aligned as the row is.
    Shm,
    /// Up to the end of the guest physical address space.
    ToLimit,
}

/// Whether a row is part of a configuration.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// In each.
    Always,
    /// When the guest is entered in one of these ways.
    Boot(&'static [Boot]),
    /// With this interrupt controller.
    Gic(Gic),
    /// When the kernel is an image without a header, or (`false`) one that says where it wants to be.
    Flat(bool),
}

/// A row of a layout's table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The name that `carpel map` prints; unique among the rows of one configuration.
    pub name: RowName,
    /// What stands behind it.
    pub kind: Kind,
    /// Where it starts.
    pub base: Base,
    /// Its size.
    pub size: Size,
    /// Alignment in bytes of a start that is not given, a power of two.
    pub align: u64,
    /// For a claim: the regions of which one must hold it; any one may if none is named.
    pub within: &'static [RowName],
    /// Which configurations have it.
    pub when: When,
    /// For a claim in RAM: the guest must not use it as ordinary memory (e820 type 2, device tree reserved-memory).
    pub reserved: bool,
}

impl Row {
    /// A backing region.
    pub const fn region(name: RowName, kind: Kind, base: Base, size: Size) -> Self {
        Self { name, kind, base, size, align: 1, within: &[], when: When::Always, reserved: false }
    }

    /// A region of fixed start and end (exclusive).
    pub const fn fixed(name: RowName, kind: Kind, range: Range<u64>) -> Self {
        Self::region(name, kind, Base::At(range.start), Size::Bytes(range.end - range.start))
    }

    /// A claim.
    pub const fn claim(name: RowName, base: Base, size: Size) -> Self {
        Self::region(name, Kind::Claim, base, size)
    }

    /// A claim of fixed start and end (exclusive).
    pub const fn fixed_claim(name: RowName, range: Range<u64>) -> Self {
        Self::fixed(name, Kind::Claim, range)
    }

    /// The same row, aligned to a power of two.
    #[must_use]
    pub const fn align(mut self, align: u64) -> Self {
        self.align = align;
        self
    }

    /// The same claim, in one of these regions.
    #[must_use]
    pub const fn within(mut self, regions: &'static [RowName]) -> Self {
        self.within = regions;
        self
    }

    /// The same row, only in some configurations.
    #[must_use]
    pub const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// The same claim, withheld from the guest's usable memory.
    #[must_use]
    pub const fn reserved(mut self) -> Self {
        self.reserved = true;
        self
    }
}

/// A guest physical map as a table, with what else differs from map to map.
#[derive(Debug)]
pub struct Layout {
    /// The name that `--layout` takes.
    pub name: &'static str,
    /// The architecture.
    pub arch: Arch,
    /// The machine that it is the map of.
    pub board: Board,
    /// The table in the order in which it is resolved: all regions, then the claims in them.
    pub rows: &'static [Row],
    /// The region that device windows are allocated from.
    pub window_region: RowName,
    /// Size and alignment of one device window, in bytes.
    pub window_size: u64,
    /// Interrupts for devices in windows (GSIs, or SPI numbers from 0), in the order of allocation; ends are exclusive.
    pub window_irqs: &'static [Range<u32>],
    /// The most vCPUs that fit, the first row that applies.
    pub max_vcpus: &'static [(When, u32)],
}
