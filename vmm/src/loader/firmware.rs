//! Firmware images: no format, only a size. What they are told of a kernel.

use carpel_arch::map::{Arch, Boot, KernelExtent, PAGE_SIZE};

use super::bzimage;
use super::error::KernelError;
use super::kernel::{Format, Handover, Kernel, Target};
use super::source::Source;

/// Where a PC's processor starts after a reset (Intel SDM volume 3, section 10.1.4).
const RESET_VECTOR: u64 = 0xFFFF_FFF0;

impl Handover {
    /// Reads the headers of a kernel for firmware.
    pub fn probe(arch: Arch, source: &Source) -> Result<Self, KernelError> {
        match arch {
            Arch::X86_64 if bzimage::is_bzimage(&source.prefix()?) => bzimage::handover(source),
            _ => Err(KernelError::NotForFirmware),
        }
    }
}

/// An image of this many bytes. A PC's ends at 4 GiB, just above its entry; others are entered at their first byte.
pub fn firmware(arch: Arch, size: u64) -> Result<Kernel, KernelError> {
    if arch == Arch::X86_64 && !size.is_multiple_of(PAGE_SIZE) {
        let reason = format!("its size of {size} bytes is not a multiple of 4 KiB");
        return Err(KernelError::unfit(Format::Firmware, reason));
    }
    Ok(Kernel {
        format: Format::Firmware,
        reason: "it is given as firmware",
        boot: Boot::Firmware,
        extent: KernelExtent::Flat { size },
        segments: Vec::new(),
        entry: if arch == Arch::X86_64 { Target::At(RESET_VECTOR) } else { Target::Kernel(0) },
        initrd_limit: u64::MAX,
        cmdline_max: 0,
        setup_header: Vec::new(),
        linux: None,
    })
}
