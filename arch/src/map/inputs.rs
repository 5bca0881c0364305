//! What a table is resolved with.

use serde::{Deserialize, Serialize};

use super::Arch;

/// How a guest is entered.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
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

impl Boot {
    /// The ways that an image can offer.
    pub const OF_IMAGES: [Self; 3] = [Self::Linux, Self::Pvh, Self::Multiboot];

    /// The name that `--boot` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Pvh => "pvh",
            Self::Multiboot => "multiboot",
            Self::Firmware => "firmware",
        }
    }
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
        /// `kernel_alignment` of the setup header.
        alignment: u64,
        /// `init_size` of the setup header.
        init_size: u64,
    },
    /// An arm64 or RISC-V Image (Linux, Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst).
    Image {
        /// Offset from a 2 MiB-aligned base; on RISC-V, from the start of RAM.
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

/// A region of memory, besides RAM, that a device shares with the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmRequest {
    /// What `carpel map` calls it: letters, digits, `-`, `_` and `.`, as no other region or claim is called.
    pub name: String,
    /// Its size in bytes, a positive multiple of [`PAGE_SIZE`](super::PAGE_SIZE).
    pub size: u64,
}

impl ShmRequest {
    /// The most characters of a name.
    pub const NAME_MAX: usize = 64;

    /// Whether this can be a region's name.
    pub fn is_name(name: &str) -> bool {
        let plain = |char: char| char.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&char);
        (1..=Self::NAME_MAX).contains(&name.len()) && name.chars().all(plain)
    }
}

/// What a table is resolved with.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Guest memory in bytes, a multiple of [`PAGE_SIZE`](super::PAGE_SIZE).
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
    /// Regions of shared memory that devices asked for, in the order of their addresses.
    pub shm: Vec<ShmRequest>,
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
            shm: Vec::new(),
            gic: Gic::V3,
        }
    }
}
