//! Firmware images: no format, only a size. They end at 4 GiB, where a processor starts.

use carpel_arch::map::{Boot, KernelExtent, PAGE_SIZE};

use super::{Format, Kernel, KernelError, Target};

/// Where a processor starts after a reset (Intel SDM volume 3, section 10.1.4).
const RESET_VECTOR: u64 = 0xFFFF_FFF0;

/// An image of this many bytes.
pub fn firmware(size: u64) -> Result<Kernel, KernelError> {
    if !size.is_multiple_of(PAGE_SIZE) {
        let reason = format!("its size of {size} bytes is not a multiple of 4 KiB");
        return Err(KernelError::unfit(Format::Firmware, reason));
    }
    Ok(Kernel {
        format: Format::Firmware,
        reason: "it is given as firmware",
        boot: Boot::Firmware,
        extent: KernelExtent::Flat { size },
        segments: Vec::new(),
        entry: Target::At(RESET_VECTOR),
        initrd_limit: u64::MAX,
        cmdline_max: 0,
        setup_header: Vec::new(),
    })
}
