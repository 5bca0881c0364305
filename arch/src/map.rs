//! The vocabulary of guest physical maps: tables of rows, what they are resolved with, and the resolved map.
//!
//! A [`Layout`] is a static table. [`resolve`](crate::resolve()) turns it and [`Inputs`] into a [`MemoryMap`], which is
//! the only source of addresses for KVM slots, e820, ACPI, device trees, loaders and MMIO allocation.

mod display;
mod inputs;
mod name;
mod table;

use std::fmt;
use std::ops::Range;

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use crate::board::Board;

pub use display::{Address, Bytes};
pub use inputs::{Boot, Gic, Inputs, KernelExtent, ShmRequest};
pub use name::RowName;
pub use table::{Base, Layout, Row, Size, When};

/// Base page size of every supported architecture, in bytes; the granularity of `--mem`.
pub const PAGE_SIZE: u64 = 0x1000;

/// The architecture of a guest.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// Intel 64 and AMD64.
    X86_64,
    /// Armv8-A in `AArch64` state.
    Aarch64,
    /// RISC-V RV64 with the hypervisor extension.
    Riscv64,
}

impl Arch {
    /// All architectures that have a layout.
    pub const ALL: [Self; 3] = [Self::X86_64, Self::Aarch64, Self::Riscv64];

    /// The architecture that this program was compiled for.
    pub const HOST: Option<Self> = Self::from_name(std::env::consts::ARCH);

    /// The architecture of this name (`x86_64`, `aarch64`, `riscv64`).
    pub const fn from_name(name: &str) -> Option<Self> {
        match name.as_bytes() {
            b"x86_64" => Some(Self::X86_64),
            b"aarch64" => Some(Self::Aarch64),
            b"riscv64" => Some(Self::Riscv64),
            _ => None,
        }
    }

    /// The name as Rust and `uname -m` spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Riscv64 => "riscv64",
        }
    }

    /// Guest physical address bits that `carpel map` assumes: what common hosts of the architecture offer.
    pub const fn default_phys_bits(self) -> u8 {
        match self {
            Self::X86_64 => 46,
            Self::Aarch64 | Self::Riscv64 => 40,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What stands behind a range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Guest memory.
    Ram,
    /// Kept free: accesses find nothing.
    Reserved,
    /// Emulated devices.
    Mmio,
    /// Set aside for PCI.
    Pci,
    /// A firmware image, mapped read-only, where there is one, and what it stores.
    Firmware,
    /// Memory shared between host and guest besides RAM.
    Shm,
    /// A named part of one region.
    Claim,
}

impl Kind {
    /// The name that `carpel map` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ram => "ram",
            Self::Reserved => "reserved",
            Self::Mmio => "mmio",
            Self::Pci => "pci",
            Self::Firmware => "firmware",
            Self::Shm => "shm",
            Self::Claim => "claim",
        }
    }
}

/// A named range of a resolved map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The row's name.
    pub name: RowName,
    /// The name that it was asked for by, where its row makes a region for each that is asked for.
    pub given_name: Option<String>,
    /// First guest physical address.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// What stands behind it.
    pub kind: Kind,
    /// Withheld from the guest's usable memory although it lies in RAM.
    pub reserved: bool,
}

impl Extent {
    /// The name that is printed.
    pub fn label(&self) -> &str {
        self.given_name.as_deref().unwrap_or(self.name.name())
    }

    /// Size in bytes.
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }

    /// Start and end (exclusive).
    pub const fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    /// Whether the two share an address.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether `other` lies inside.
    pub const fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// As `carpel map --format json` has it.
impl Serialize for Extent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Extent", 4)?;
        object.serialize_field("name", self.label())?;
        object.serialize_field("start", &self.start)?;
        object.serialize_field("end", &self.end)?;
        object.serialize_field("kind", &self.kind)?;
        object.end()
    }
}

/// A guest physical map: backing regions and the claims in them, each sorted by start and disjoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryMap {
    /// The guest's architecture.
    pub arch: Arch,
    /// The layout's name.
    pub layout: &'static str,
    /// The machine that it is the map of.
    #[serde(skip)]
    pub board: Board,
    /// Guest memory in bytes.
    pub mem: u64,
    /// Backing regions.
    pub regions: Vec<Extent>,
    /// Named parts of regions.
    pub claims: Vec<Extent>,
}

/// A row that a map has not, though what reads it needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("The {arch} `{layout}` map has no `{name}`")]
pub struct MissingRow {
    /// The map's architecture.
    pub arch: Arch,
    /// Its layout.
    pub layout: &'static str,
    /// The row.
    pub name: RowName,
}

impl MemoryMap {
    /// The region of this name, if this configuration has it.
    pub fn region(&self, name: RowName) -> Option<&Extent> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// The claim of this name, if this configuration has it.
    pub fn claim(&self, name: RowName) -> Option<&Extent> {
        self.claims.iter().find(|claim| claim.name == name)
    }

    /// The region of this name, which this configuration must have.
    pub fn need_region(&self, name: RowName) -> Result<&Extent, MissingRow> {
        self.region(name).ok_or(self.missing(name))
    }

    /// The claim of this name, which this configuration must have.
    pub fn need_claim(&self, name: RowName) -> Result<&Extent, MissingRow> {
        self.claim(name).ok_or(self.missing(name))
    }

    const fn missing(&self, name: RowName) -> MissingRow {
        MissingRow { arch: self.arch, layout: self.layout, name }
    }

    /// The regions of guest RAM.
    pub fn ram(&self) -> impl Iterator<Item = &Extent> {
        self.regions.iter().filter(|region| region.kind == Kind::Ram)
    }

    /// The regions that devices share with the guest, in the order in which they were asked for.
    pub fn shm(&self) -> impl Iterator<Item = &Extent> {
        self.regions.iter().filter(|region| region.kind == Kind::Shm)
    }

    /// RAM as KVM memory slots: neighbouring regions become one.
    pub fn slots(&self) -> Vec<Range<u64>> {
        let mut slots: Vec<Range<u64>> = Vec::new();
        for region in self.ram() {
            match slots.last_mut() {
                Some(last) if last.end == region.start => last.end = region.end,
                _ => slots.push(region.range()),
            }
        }
        slots
    }

    /// Windows for devices: the aligned windows inside the layout's window region that touch no claim, lowest first.
    pub fn windows(&self, layout: &Layout) -> Result<impl Iterator<Item = Range<u64>>, MissingRow> {
        let size = layout.window_size;
        let range = self.need_region(layout.window_region)?.range();
        let first = range.start.next_multiple_of(size);
        let free =
            |window: &Range<u64>| !self.claims.iter().any(|claim| claim.start < window.end && window.start < claim.end);
        Ok((first..range.end)
            .step_by(size as usize)
            .map(move |start| start..start + size)
            .filter(move |window| window.end <= range.end)
            .filter(free))
    }
}
