//! The vocabulary of guest physical maps: tables of rows, what they are resolved with, and the resolved map.
//!
//! A [`Layout`] is a static table. [`resolve`](crate::resolve()) turns it and [`Inputs`] into a [`MemoryMap`], which is
//! the only source of addresses for KVM slots, e820, ACPI, device trees, loaders and MMIO allocation.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// Base page size of every supported architecture, in bytes; the granularity of `--mem`.
pub const PAGE_SIZE: u64 = 0x1000;

/// The architecture of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// Intel 64 and AMD64.
    #[serde(rename = "x86_64")]
    X86_64,
    /// Armv8-A in AArch64 state.
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
    /// A firmware image, mapped read-only, where there is one.
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
        rows: &'static [&'static str],
        /// The lowest address.
        floor: u64,
    },
    /// At the highest aligned address such that it ends inside the row.
    TopOf(&'static str),
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
    Kernel,
    /// The initial RAM disk's size.
    Initrd,
    /// The firmware image's size.
    Firmware,
    /// The last bytes of the firmware image, at most this many.
    FirmwareTail {
        /// Upper bound in bytes.
        max: u64,
    },
    /// The shared memory that devices asked for.
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
    pub name: &'static str,
    /// What stands behind it.
    pub kind: Kind,
    /// Where it starts.
    pub base: Base,
    /// Its size.
    pub size: Size,
    /// Alignment of its start in bytes, a power of two.
    pub align: u64,
    /// Which configurations have it.
    pub when: When,
    /// For a claim in RAM: the guest must not use it as ordinary memory (e820 type 2, device tree reserved-memory).
    pub reserved: bool,
}

impl Row {
    /// A backing region.
    pub const fn region(name: &'static str, kind: Kind, base: Base, size: Size) -> Self {
        Self { name, kind, base, size, align: 1, when: When::Always, reserved: false }
    }

    /// A region of fixed start and end (exclusive).
    pub const fn fixed(name: &'static str, kind: Kind, range: Range<u64>) -> Self {
        Self::region(name, kind, Base::At(range.start), Size::Bytes(range.end - range.start))
    }

    /// A claim.
    pub const fn claim(name: &'static str, base: Base, size: Size) -> Self {
        Self::region(name, Kind::Claim, base, size)
    }

    /// A claim of fixed start and end (exclusive).
    pub const fn fixed_claim(name: &'static str, range: Range<u64>) -> Self {
        Self::fixed(name, Kind::Claim, range)
    }

    /// The same row, aligned to a power of two.
    pub const fn align(mut self, align: u64) -> Self {
        self.align = align;
        self
    }

    /// The same row, only in some configurations.
    pub const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    /// The same claim, withheld from the guest's usable memory.
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
    /// The table: regions and claims, in the order in which they are resolved.
    pub rows: &'static [Row],
    /// The region that device windows are allocated from.
    pub window_region: &'static str,
    /// Size and alignment of one device window, in bytes.
    pub window_size: u64,
    /// Interrupts for devices in windows (GSIs, or SPI numbers from 0), in the order of allocation; ends are exclusive.
    pub window_irqs: &'static [Range<u32>],
    /// The most vCPUs that fit, the first row that applies.
    pub max_vcpus: &'static [(When, u32)],
}

/// How a guest is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The kernel's own protocol: the 64-bit entry on x86-64, the Image's on aarch64 and riscv64.
    Linux,
    /// Xen's PVH entry.
    Pvh,
    /// Multiboot 1.
    Multiboot,
    /// The reset vector of a firmware image.
    Firmware,
}

/// Which Arm Generic Interrupt Controller the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// `GICv2`: at most 8 vCPUs.
    V2,
    /// `GICv3`.
    V3,
}

/// Where a kernel wants to be and how much memory it needs while it runs (`run_end`). All values are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelExtent {
    /// An x86 bzImage, which moves itself to its preferred address (Linux, Documentation/arch/x86/boot.rst).
    BzImage {
        /// Bytes to load: all after the setup sectors.
        load_size: u64,
        /// `pref_address` of the setup header.
        pref_address: u64,
        /// `kernel_alignment` of the setup header, not 0.
        alignment: u64,
        /// `init_size` of the setup header.
        init_size: u64,
    },
    /// An arm64 or RISC-V Image (Linux, Documentation/arch/arm64/booting.rst).
    Image {
        /// Offset from a 2 MiB-aligned base.
        text_offset: u64,
        /// `image_size` of the header.
        image_size: u64,
    },
    /// An image without a header, at the layout's address for such.
    Flat {
        /// File size.
        size: u64,
    },
    /// An ELF or Multiboot image that names its own addresses.
    Fixed {
        /// The lowest address.
        start: u64,
        /// The highest address, exclusive.
        end: u64,
    },
}

/// What a table is resolved with.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Guest memory in bytes, a multiple of [`PAGE_SIZE`].
    pub mem: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Guest physical address bits, 32 to 52.
    pub phys_bits: u8,
    /// How the guest is entered.
    pub boot: Boot,
    /// The kernel, if one is loaded.
    pub kernel: Option<KernelExtent>,
    /// Size of the initial RAM disk in bytes, 0 if there is none.
    pub initrd: u64,
    /// The initial RAM disk must end at or below this address (`initrd_addr_max` + 1); `u64::MAX` if it may be anywhere.
    pub initrd_limit: u64,
    /// Size of the firmware image in bytes, 0 if there is none.
    pub firmware: u64,
    /// Shared memory that devices asked for, in bytes.
    pub shm: u64,
    /// The interrupt controller of an Arm machine.
    pub gic: Gic,
}

impl Inputs {
    /// A guest with this much memory and all else at its default.
    pub fn new(arch: Arch, mem: u64) -> Self {
        Self {
            mem,
            vcpus: 1,
            phys_bits: arch.default_phys_bits(),
            boot: Boot::Linux,
            kernel: None,
            initrd: 0,
            initrd_limit: u64::MAX,
            firmware: 0,
            shm: 0,
            gic: Gic::V3,
        }
    }
}

/// A named range of a resolved map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// The row's name.
    pub name: &'static str,
    /// First guest physical address.
    pub start: u64,
    /// End, exclusive.
    pub end: u64,
    /// What stands behind it.
    pub kind: Kind,
    /// Withheld from the guest's usable memory although it lies in RAM.
    #[serde(skip)]
    pub reserved: bool,
}

impl Extent {
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

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` at {}-{}", self.name, Address(self.start), Address(self.end))
    }
}

/// A guest physical address in print: hexadecimal, in groups of four digits.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = [48, 32, 16, 0].map(|shift| (self.0 >> shift) & 0xffff);
        let first = groups.iter().position(|&group| group != 0).unwrap_or(3);
        let mut text = format!("{:#X}", groups[first]);
        for group in &groups[first + 1..] {
            text.push_str(&format!("_{group:04X}"));
        }
        f.pad(&text)
    }
}

/// A number of bytes in print: the largest power-of-1024 unit that divides it, as in `64 MiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shift, unit) = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|&(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= shift)
            .unwrap_or((0, "B"));
        f.pad(&format!("{} {unit}", self.0 >> shift))
    }
}

/// A guest physical map: backing regions and the claims in them, each sorted by start and disjoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryMap {
    /// The guest's architecture.
    pub arch: Arch,
    /// The layout's name.
    pub layout: &'static str,
    /// Guest memory in bytes.
    pub mem: u64,
    /// Backing regions.
    pub regions: Vec<Extent>,
    /// Named parts of regions.
    pub claims: Vec<Extent>,
}

impl MemoryMap {
    /// The region of this name.
    pub fn region(&self, name: &str) -> Option<&Extent> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// The claim of this name.
    pub fn claim(&self, name: &str) -> Option<&Extent> {
        self.claims.iter().find(|claim| claim.name == name)
    }

    /// The regions of guest RAM.
    pub fn ram(&self) -> impl Iterator<Item = &Extent> {
        self.regions.iter().filter(|region| region.kind == Kind::Ram)
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

    /// Windows for devices: the aligned windows of the layout's window region that touch no claim, lowest first.
    pub fn windows(&self, layout: &Layout) -> impl Iterator<Item = Range<u64>> {
        let size = layout.window_size;
        let range = self.region(layout.window_region).map_or(0..0, Extent::range);
        let first = range.start.next_multiple_of(size);
        (first..range.end)
            .step_by(size as usize)
            .map(move |start| start..start + size)
            .filter(move |window| window.end <= range.end)
            .filter(|window| !self.claims.iter().any(|claim| claim.start < window.end && window.start < claim.end))
    }
}
