//! What kernel images say of themselves: values, which know nothing of files.

use carpel_arch::map::{Boot, KernelExtent, PAGE_SIZE};

/// The format of a kernel image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Linux's x86 image with its setup header.
    BzImage,
    /// An ELF file.
    Elf,
    /// An image with a Multiboot 1 header.
    Multiboot,
    /// Linux's arm64 image with its header.
    Image,
    /// Memory's contents without a header.
    Flat,
    /// A firmware image.
    Firmware,
}

impl Format {
    /// The name that messages use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BzImage => "bzImage",
            Self::Elf => "ELF",
            Self::Multiboot => "Multiboot image",
            Self::Image => "Image",
            Self::Flat => "flat image",
            Self::Firmware => "firmware image",
        }
    }
}

/// Where a part of a kernel goes, or where it is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// At this guest physical address.
    At(u64),
    /// This many bytes after the start of the map's claim for the kernel or firmware.
    Kernel(u64),
}

impl Target {
    /// The guest physical address, given where the kernel starts.
    pub const fn resolve(self, kernel_start: u64) -> Option<u64> {
        match self {
            Self::At(address) => Some(address),
            Self::Kernel(offset) => kernel_start.checked_add(offset),
        }
    }
}

/// Bytes of the file that belong in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file in bytes.
    pub offset: u64,
    /// Size in bytes, not 0; it ends inside the file.
    pub size: u64,
    /// Where it goes.
    pub target: Target,
}

/// What a kernel image says of itself, for one way to boot it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// How it is entered.
    pub boot: Boot,
    /// What in the image offers this way, as a sentence without its end.
    pub reason: &'static str,
    /// Its format.
    pub format: Format,
    /// The memory that it occupies while it runs.
    pub extent: KernelExtent,
    /// What to load.
    pub segments: Vec<Segment>,
    /// Where vCPU 0 starts.
    pub entry: Target,
    /// Where its initial RAM disk must end, exclusive; `u64::MAX` if anywhere.
    pub initrd_limit: u64,
    /// The longest command line that it takes, in bytes without the final NUL.
    pub cmdline_max: usize,
    /// The setup header to start the zero page from: bytes from offset 0x1F1 of the file on; empty if it has none.
    pub setup_header: Vec<u8>,
    /// What shows that it is Linux, as a sentence without its end; none if it is not. Of an ELF that is known once it is
    /// probed.
    pub linux: Option<&'static str>,
}

/// An initial RAM disk in its place: a Multiboot kernel's module, or one of the archives that are a Linux's initrd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its file's name as far as it is printable ASCII, without its directory.
    pub name: String,
    /// Where it starts in the map's claim for them, in bytes.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Module {
    /// Where the last one ends in the claim, which is as large.
    pub fn end(modules: &[Self]) -> u64 {
        modules.last().map_or(0, |last| last.offset + last.size)
    }
}

/// A kernel that firmware loads and enters by itself, in the parts that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Bytes of boot sector and setup code, with which the file starts.
    pub setup_size: u64,
    /// Bytes of the protected-mode kernel, which follows.
    pub kernel_size: u64,
    /// Where that ends in guest memory, exclusive.
    pub kernel_end: u64,
    /// Where the initial RAM disk must end, exclusive.
    pub initrd_limit: u64,
    /// The longest command line that it takes, in bytes without the final NUL.
    pub cmdline_max: usize,
}

impl Handover {
    /// The least low RAM in bytes that holds the kernel and, page-aligned behind it, an initial RAM disk of this size.
    pub const fn low_ram(&self, initrd: u64) -> u64 {
        self.kernel_end.saturating_add(initrd).saturating_add(2 * PAGE_SIZE)
    }
}
