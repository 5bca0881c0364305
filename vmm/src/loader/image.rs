//! Linux's arm64 Image. Source: Linux, Documentation/arm64/booting.rst ("Call the kernel image").

use carpel_arch::map::{Boot, KernelExtent};

use super::error::KernelError;
use super::fields::Fields;
use super::kernel::{Format, Kernel, Segment, Target};
use super::source::Source;

/// The header's size in bytes.
const HEADER: usize = 64;
/// Where "ARM" and 0x64 stand.
const MAGIC: usize = 56;
/// The longest command line that Linux takes, NUL excluded (`COMMAND_LINE_SIZE` in arch/arm64).
pub const CMDLINE_MAX: usize = 2047;

/// Whether the file's first bytes have the header's magic number.
pub fn is_image(start: &[u8]) -> bool {
    start.get(MAGIC..MAGIC + 4) == Some(b"ARM\x64")
}

/// Reads the header. The image is entered at its first byte.
pub fn parse(source: &Source) -> Result<Kernel, KernelError> {
    let size = source.size();
    if size < HEADER as u64 {
        return Err(KernelError::Truncated { format: Format::Image.name(), size, needed: HEADER as u64 });
    }
    let start = source.prefix::<HEADER>()?;
    let header = Fields(&start);
    let (text_offset, image_size) = (header.u64(8), header.u64(16));
    if image_size < HEADER as u64 {
        let reason = format!("its image_size of {image_size} bytes says nothing (kernels before Linux 3.17 have 0)");
        return Err(KernelError::unfit(Format::Image, reason));
    }
    Ok(Kernel {
        format: Format::Image,
        extent: KernelExtent::Image { text_offset, image_size },
        // What a signature adds behind the image is not loaded.
        segments: vec![Segment { offset: 0, size: size.min(image_size), target: Target::Kernel(0) }],
        entry: Target::Kernel(0),
        initrd_limit: u64::MAX,
        cmdline_max: CMDLINE_MAX,
        setup_header: Vec::new(),
        linux: Some("it is an Image"),
        boot: Boot::Linux,
        reason: "it is an Image",
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use carpel_arch::map::Arch;

    /// An Image of 4 KiB that needs 64 while it runs.
    pub fn image() -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[10] = 0x08;
        image[16..24].copy_from_slice(&0x1_0000_u64.to_le_bytes());
        image[MAGIC..MAGIC + 4].copy_from_slice(b"ARM\x64");
        image
    }

    fn probe(image: &[u8]) -> Result<Kernel, KernelError> {
        Kernel::probe(Arch::Aarch64, &Source::from_bytes(image), None)
    }

    #[test]
    fn the_header_is_read() {
        let kernel = probe(&image()).unwrap();
        assert_eq!(kernel.extent, KernelExtent::Image { text_offset: 0x8_0000, image_size: 0x1_0000 });
        assert_eq!(kernel.segments, [Segment { offset: 0, size: 4096, target: Target::Kernel(0) }]);
        assert_eq!(kernel.entry, Target::Kernel(0));
    }

    #[test]
    fn truncated_and_unsized_images_are_refused() {
        for size in 1..HEADER {
            assert!(probe(&image()[..size]).is_err(), "{size} bytes");
        }
        let mut unsized_image = image();
        unsized_image[18] = 0;
        assert!(probe(&unsized_image).unwrap_err().to_string().contains("image_size"));
    }

    #[test]
    fn what_follows_the_image_is_not_loaded() {
        let mut signed = image();
        signed[16..24].copy_from_slice(&1024_u64.to_le_bytes());
        assert_eq!(probe(&signed).unwrap().segments[0].size, 1024);
    }

    #[test]
    fn another_architecture_does_not_know_it() {
        assert!(Kernel::probe(Arch::X86_64, &Source::from_bytes(&image()), None).is_err());
    }
}
