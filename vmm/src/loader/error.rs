//! Why a file is not a kernel that can be booted.

use carpel_arch::map::Arch;
use thiserror::Error;

use super::decompress::DecompressError;
use super::kernel::Format;

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
    pub(super) fn unfit(format: Format, reason: impl Into<String>) -> Self {
        Self::Unfit { format: format.name(), reason: reason.into() }
    }
}
