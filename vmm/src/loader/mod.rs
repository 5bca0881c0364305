//! Kernels: what a file is, what it needs, and getting it into guest memory.
//!
//! A format's parser turns headers into a [`Kernel`], which is data: the plan reads its extent, the loader its segments.
//! Parsers trust nothing that a header says; what they pass on lies inside the file and does not wrap.

mod bzimage;
mod decompress;
mod elf;
mod error;
mod fields;
mod firmware;
mod flat;
mod foreign;
mod image;
pub(crate) mod kernel;
mod machines;
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

use carpel_arch::map::{Arch, Boot};
use vm_memory::GuestMemoryMmap;

pub use bzimage::SETUP_HEADER;
pub use decompress::DecompressError;
pub use error::KernelError;
pub use firmware::firmware;
pub use kernel::{Format, Handover, Kernel, Module, Segment, Target};
pub use ramdisk::{Joined, Ramdisk, place};
pub use source::{LoadError, OpenError, Pipes, Source};
pub use uki::Image;

/// The files of a configuration, opened.
#[derive(Debug)]
pub struct Files {
    /// The firmware.
    pub firmware: Option<Source>,
    /// The kernel, unpacked.
    pub kernel: Option<Source>,
    /// The initial RAM disks: what came with the kernel first.
    pub initrds: Vec<Ramdisk>,
    /// The command line that came with the kernel.
    pub cmdline: Option<String>,
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
