//! Kernels: what a file is, what it needs, and getting it into guest memory.
//!
//! A format's parser turns headers into a [`Kernel`], which is data: the plan reads its extent, the loader its segments.
//! Parsers trust nothing that a header says; what they pass on lies inside the file and does not wrap.

mod bzimage;
mod decompress;
mod elf;
mod fields;
mod firmware;
mod flat;
mod foreign;
mod image;
mod multiboot;
#[cfg(test)]
mod properties;
mod ramdisk;
mod source;
mod uki;
mod zboot;

/// Images of each format.
#[cfg(test)]
pub mod samples {
    pub use super::bzimage::tests::image as bzimage;
    pub use super::elf::tests::{image as elf, with_note as pvh};
    pub use super::image::tests::image as arm64;
    pub use super::multiboot::tests::flat as multiboot;
}

use carpel_arch::map::{Arch, Boot, KernelExtent};
use thiserror::Error;
use vm_memory::{GuestMemoryError, GuestMemoryMmap};

pub use bzimage::SETUP_HEADER;
pub use decompress::DecompressError;
pub use firmware::{Handover, firmware};
pub use ramdisk::{Joined, Module, Ramdisk};
pub use source::{OpenError, Pipes, Source};

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
    /// What shows that it is Linux, as a sentence without its end; none if it is not. Of an ELF that is known once it is probed.
    pub linux: Option<&'static str>,
}

/// A kernel's image, out of all that was around it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: Source,
    /// The initial RAM disk that came with it.
    pub initrd: Option<Source>,
    /// The command line that came with it.
    pub cmdline: Option<String>,
}

/// Why a file is not a kernel that can be booted.
#[derive(Debug, Error)]
pub enum KernelError {
    /// No format's signature is there.
    #[error("It is neither {} for {arch}", recognised(*arch))]
    Unknown {
        /// The guest's architecture.
        arch: Arch,
    },
    /// It is another architecture's.
    #[error("The {format} is for {machine}, not for {arch}{remedy}")]
    Architecture {
        /// The format.
        format: &'static str,
        /// What it is for.
        machine: &'static str,
        /// The guest's architecture.
        arch: Arch,
        /// What would take it.
        remedy: String,
    },
    /// It is something else.
    #[error("It is {what}, not a kernel{}{remedy}", if .remedy.is_empty() { "" } else { ": " })]
    NotKernel {
        /// What it is, with its article.
        what: &'static str,
        /// What may be done with it; empty if nothing.
        remedy: &'static str,
    },
    /// The file ends early.
    #[error("The {format} is truncated: it has {size} bytes and needs {needed}")]
    Truncated {
        /// The format.
        format: &'static str,
        /// Bytes in the file.
        size: u64,
        /// Bytes that its headers speak of, saturated.
        needed: u64,
    },
    /// It is of a format that no firmware takes.
    #[error("It is not a bzImage, the only format that firmware takes; without --firmware it may boot")]
    NotForFirmware,
    /// The format is right, but the image is none that can be entered.
    #[error("The {format} cannot be booted: {reason}")]
    Unfit {
        /// The format.
        format: &'static str,
        /// What is wrong or missing.
        reason: String,
    },
    /// It does not offer the way that was asked for.
    #[error("It cannot be booted by {wanted}, as --boot asks; it offers {offered}")]
    NotOffered {
        /// The way that was asked for.
        wanted: &'static str,
        /// The ways that it offers, by name.
        offered: String,
    },
    /// It is compressed, and cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] DecompressError),
    /// Reading failed.
    #[error("Cannot read it")]
    Read(#[from] std::io::Error),
}

/// What is recognised for an architecture, in a message.
const fn recognised(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "a bzImage, an ELF file nor a Multiboot image",
        Arch::Aarch64 => "an Image, an ELF file nor anything else that begins with an instruction",
        Arch::Riscv64 => "an ELF file nor anything else that boots",
    }
}

impl KernelError {
    fn unfit(format: Format, reason: impl Into<String>) -> Self {
        Self::Unfit { format: format.name(), reason: reason.into() }
    }
}

/// The image to boot: what is inside a unified kernel image, a compressed file or an EFI zboot image, and of a bzImage the ELF inside where a
/// way is wanted that only that may offer. At most `limit` bytes are unpacked.
pub fn unpack(arch: Arch, source: Source, wanted: Option<Boot>, limit: u64) -> Result<Image, KernelError> {
    let Image { kernel, initrd, cmdline } =
        uki::open(arch, &source)?.unwrap_or(Image { kernel: source, initrd: None, cmdline: None });
    let kernel = zboot::payload(&kernel)?.unwrap_or(kernel);
    let kernel = decompress::unpack(kernel, limit)?;
    let inside = arch == Arch::X86_64
        && matches!(wanted, Some(Boot::Pvh | Boot::Multiboot))
        && bzimage::is_bzimage(&kernel.prefix()?);
    let kernel = if inside { decompress::unpack(bzimage::payload(&kernel)?, limit)? } else { kernel };
    Ok(Image { kernel, initrd, cmdline })
}

impl Kernel {
    /// Recognises the format by its signature and reads the headers: the ways to boot the image, the best first; there
    /// is at least one.
    pub fn ways(arch: Arch, source: &Source) -> Result<Vec<Self>, KernelError> {
        let signature = source.prefix::<{ bzimage::SIGNATURE_END }>()?;
        match arch {
            _ if elf::is_elf(&signature) => elf::ways(arch, source),
            Arch::X86_64 if bzimage::is_bzimage(&signature) => Ok(vec![bzimage::parse(source)?]),
            Arch::X86_64 => match multiboot::parse(source, None)? {
                Some(kernel) => Ok(vec![kernel]),
                None => Err(foreign::recognise(arch, source)?.unwrap_or(KernelError::Unknown { arch })),
            },
            Arch::Aarch64 if image::is_image(&signature) => Ok(vec![image::parse(source)?]),
            _ => match foreign::recognise(arch, source)? {
                Some(error) => Err(error),
                None if arch == Arch::Aarch64 && flat::may_be_flat(&signature) => Ok(vec![flat::kernel(source.size())]),
                None => Err(KernelError::Unknown { arch }),
            },
        }
    }

    /// The image as it is booted: the way that is wanted, the best one if none is.
    pub fn probe(arch: Arch, source: &Source, wanted: Option<Boot>) -> Result<Self, KernelError> {
        let ways = Self::ways(arch, source)?;
        let names: Vec<_> = ways.iter().map(|way| way.boot.name()).collect();
        let offered = names.join(", ");
        let mut chosen = ways.into_iter().filter(|way| wanted.is_none_or(|wanted| way.boot == wanted));
        let not_offered =
            || KernelError::NotOffered { wanted: wanted.map_or("any", Boot::name), offered: offered.clone() };
        let mut kernel = chosen.next().ok_or_else(not_offered)?;
        if kernel.format == Format::Elf {
            kernel.linux = elf::linux(arch, source)?;
        }
        let why = if wanted.is_some() { "--boot asks for it" } else { kernel.reason };
        log::debug!("The kernel is booted by {}, for {why}; it offers {offered}", kernel.boot.name());
        match kernel.linux {
            Some(shown) => log::debug!("The kernel is Linux: {shown}"),
            None => log::debug!("The kernel is not Linux: its command line is the user's"),
        }
        Ok(kernel)
    }

    /// Copies the segments into guest memory.
    ///
    /// `kernel_start` is the start of the map's `kernel` claim in bytes.
    pub fn load(&self, source: &Source, memory: &GuestMemoryMmap, kernel_start: u64) -> Result<(), LoadError> {
        for segment in &self.segments {
            let address = segment.target.resolve(kernel_start).unwrap_or(u64::MAX);
            source.load(memory, segment.offset, segment.size, address)?;
        }
        Ok(())
    }
}

/// Why bytes of a file did not get into guest memory.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Positioning failed.
    #[error("Cannot seek")]
    Seek(#[from] std::io::Error),
    /// The file changed since it was probed, or its address is no memory.
    #[error("Cannot read {size} bytes to guest physical address {address:#x}")]
    Copy {
        /// Bytes.
        size: u64,
        /// Guest physical address.
        address: u64,
        /// The cause.
        source: GuestMemoryError,
    },
}
