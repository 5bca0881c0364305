//! Linux's bzImage. Source: Linux, Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header", "64-bit Boot
//! Protocol").

use carpel_arch::map::{Boot, KernelExtent};

use super::error::KernelError;
use super::fields::Fields;
use super::kernel::{Format, Handover, Kernel, Segment, Target};
use super::source::Source;

/// Where the setup header starts, in the file and in the zero page.
pub const SETUP_HEADER: usize = 0x1F1;
/// Everything that says "bzImage" lies below this offset in the file.
pub const SIGNATURE_END: usize = 0x206;

const BOOT_FLAG: usize = 0x1FE;
/// The second byte of the jump over the header is the header's length after this offset.
const HEADER_MAGIC: usize = 0x202;
/// The last field, `kernel_info_offset`, ends here (protocol 2.15).
const HEADER_END: usize = 0x26C;
const SECTOR: u64 = 512;

/// 2.12 (Linux 3.8) brought `xloadflags` and with it the 64-bit entry.
const PROTOCOL_64: Protocol = Protocol { version: 0x020C, linux: "3.8" };
/// 2.06 (Linux 2.6.22) brought `cmdline_size`, the last that has to be known of a kernel that firmware loads.
const PROTOCOL_FIRMWARE: Protocol = Protocol { version: 0x0206, linux: "2.6.22" };
const XLF_KERNEL_64: u16 = 1 << 0;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
const LOADED_HIGH: u8 = 1 << 0;
/// Where firmware loads a kernel that is loaded high.
const LOADED_HIGH_AT: u64 = 1 << 20;
/// The 64-bit entry, from the start of the protected-mode kernel.
const ENTRY_64: u64 = 0x200;

/// A version of the boot protocol.
struct Protocol {
    version: u16,
    /// The Linux that brought it.
    linux: &'static str,
}

/// What every way to boot an image needs of it.
struct Image {
    start: [u8; HEADER_END],
    /// Where the protected-mode kernel starts in the file, and its size, both in bytes.
    offset: u64,
    load_size: u64,
}

/// Whether the file's first bytes have both signatures, `0xAA55` and `HdrS`.
pub fn is_bzimage(start: &[u8; SIGNATURE_END]) -> bool {
    start[BOOT_FLAG..HEADER_MAGIC - 2] == [0x55, 0xAA] && start[HEADER_MAGIC..] == *b"HdrS"
}

/// Reads the setup header.
pub fn parse(source: &Source) -> Result<Kernel, KernelError> {
    let Image { start, offset, load_size } = Image::new(source, &PROTOCOL_64)?;
    let header = Fields(&start);
    let unfit = |reason: String| KernelError::unfit(Format::BzImage, reason);
    if header.u16(0x236) & XLF_KERNEL_64 == 0 {
        return Err(unfit("it has no 64-bit entry (XLF_KERNEL_64 is not set)".into()));
    }
    let alignment = u64::from(header.u32(0x230));
    if !alignment.is_power_of_two() {
        return Err(unfit(format!("its kernel_alignment of {alignment:#x} is not a power of two")));
    }
    if load_size <= ENTRY_64 {
        return Err(unfit(format!("its syssize of {load_size} bytes leaves no room for the 64-bit entry")));
    }
    let initrd_limit = match header.u16(0x236) & XLF_CAN_BE_LOADED_ABOVE_4G {
        0 => u64::from(header.u32(0x22C)) + 1,
        _ => u64::MAX,
    };
    Ok(Kernel {
        boot: Boot::Linux,
        reason: "it is a bzImage, entered by its 64-bit entry",
        format: Format::BzImage,
        extent: KernelExtent::BzImage {
            load_size,
            pref_address: header.u64(0x258),
            alignment,
            init_size: u64::from(header.u32(0x260)),
        },
        segments: vec![Segment { offset, size: load_size, target: Target::Kernel(0) }],
        entry: Target::Kernel(ENTRY_64),
        initrd_limit,
        cmdline_max: header.u32(0x238) as usize,
        setup_header: setup_header(&start).to_vec(),
        linux: Some("it is a bzImage"),
    })
}

/// What firmware is told of an image, which it enters by the setup code.
pub fn handover(source: &Source) -> Result<Handover, KernelError> {
    let Image { start, offset, load_size } = Image::new(source, &PROTOCOL_FIRMWARE)?;
    let header = Fields(&start);
    Ok(Handover {
        setup_size: offset,
        kernel_size: load_size,
        kernel_end: LOADED_HIGH_AT + load_size,
        initrd_limit: u64::from(header.u32(0x22C)) + 1,
        cmdline_max: header.u32(0x238) as usize,
    })
}

/// The compressed kernel inside, an ELF file: `payload_offset` and `payload_length` of the setup header.
///
/// The kernel's build adds the unpacked size, 4 bytes, where the compression does not tell it; only gzip does.
pub fn payload(source: &Source) -> Result<Source, KernelError> {
    const SIZE: usize = 4;
    let start = source.prefix::<HEADER_END>()?;
    let header = Fields(&start);
    let (offset, length) = (u64::from(header.u32(0x248)), u64::from(header.u32(0x24C)));
    let offset = protected_mode(&header) + offset;
    if length <= SIZE as u64 {
        return Err(KernelError::unfit(Format::BzImage, "it has no payload that could be unpacked"));
    }
    let truncated =
        || KernelError::Truncated { format: Format::BzImage.name(), size: source.size(), needed: offset + length };
    let payload = source.part(offset, length).ok_or_else(truncated)?;
    let is_gzip = payload.prefix::<2>()? == *b"\x1F\x8B";
    let size = if is_gzip { length } else { length - SIZE as u64 };
    payload.part(0, size).ok_or_else(truncated)
}

impl Image {
    /// Reads the setup header of an image that speaks at least this protocol.
    fn new(source: &Source, least: &Protocol) -> Result<Self, KernelError> {
        let size = source.size();
        let truncated = |needed| KernelError::Truncated { format: Format::BzImage.name(), size, needed };
        let unfit = |reason: String| KernelError::unfit(Format::BzImage, reason);
        if size < HEADER_END as u64 {
            return Err(truncated(HEADER_END as u64));
        }
        let start = source.prefix::<HEADER_END>()?;
        let header = Fields(&start);

        let version = header.u16(0x206);
        if version < least.version {
            let name = |version: u16| format!("{}.{:02}", version >> 8, version & 0xFF);
            let (least, linux) = (name(least.version), least.linux);
            return Err(unfit(format!("it speaks boot protocol {}; {least} (Linux {linux}) is needed", name(version))));
        }
        if header.u8(0x211) & LOADED_HIGH == 0 {
            return Err(unfit("it wants to be loaded below 1 MiB (LOADED_HIGH is not set)".into()));
        }
        let offset = protected_mode(&header);
        // syssize counts 16-byte paragraphs. What a signature adds behind them is not loaded.
        let load_size = u64::from(header.u32(0x1F4)) * 16;
        // Some tools drop the padding of the last paragraph.
        if size <= offset || size + 16 <= offset + load_size {
            return Err(truncated(offset + load_size));
        }
        Ok(Self { start, offset, load_size: load_size.min(size - offset) })
    }
}

/// Where the protected-mode kernel starts in the file.
fn protected_mode(header: &Fields) -> u64 {
    // The specification has 0 mean 4, for images older than any that get here.
    let setup_sectors = match header.u8(0x1F1) {
        0 => 4,
        sectors => u64::from(sectors),
    };
    (setup_sectors + 1) * SECTOR
}

/// The header proper: as long as the jump over it says.
fn setup_header(start: &[u8; HEADER_END]) -> &[u8] {
    let end = HEADER_MAGIC + usize::from(start[HEADER_MAGIC - 1]);
    &start[SETUP_HEADER..end.clamp(SETUP_HEADER, HEADER_END)]
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::loader::unpack;
    use carpel_arch::map::Arch;

    /// A bzImage of protocol 2.15 with one setup sector and 4 KiB to load.
    pub fn image() -> Vec<u8> {
        let mut image = vec![0; 1024 + 4096];
        image[0x1F1] = 1;
        image[0x1F4..0x1F8].copy_from_slice(&(4096_u32 / 16).to_le_bytes());
        image[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&[0x55, 0xAA]);
        image[0x200..0x202].copy_from_slice(&[0xEB, 0x6A]);
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020F_u16.to_le_bytes());
        image[0x211] = LOADED_HIGH;
        image[0x22C..0x230].copy_from_slice(&0x7FFF_FFFF_u32.to_le_bytes());
        image[0x230..0x234].copy_from_slice(&0x20_0000_u32.to_le_bytes());
        image[0x236] = (XLF_KERNEL_64 | XLF_CAN_BE_LOADED_ABOVE_4G) as u8;
        image[0x238..0x23C].copy_from_slice(&2047_u32.to_le_bytes());
        image[0x258..0x260].copy_from_slice(&0x100_0000_u64.to_le_bytes());
        image[0x260..0x264].copy_from_slice(&0x200_0000_u32.to_le_bytes());
        image
    }

    #[test]
    fn firmware_gets_the_file_in_two_parts() {
        // No 64-bit entry, and of a protocol without one.
        let mut image = image();
        (image[0x206], image[0x236]) = (6, 0);
        image.extend([0xAA; 100]);
        let handover = Handover {
            setup_size: 1024,
            kernel_size: 4096,
            kernel_end: 0x10_1000,
            initrd_limit: 0x8000_0000,
            cmdline_max: 2047,
        };
        assert_eq!(super::handover(&Source::from_bytes(&image)).unwrap(), handover);
        assert_eq!(handover.low_ram(1), 0x10_3001);
        image[0x206] = 5;
        let error = super::handover(&Source::from_bytes(&image)).unwrap_err().to_string();
        assert!(error.contains("protocol 2.05; 2.06 (Linux 2.6.22) is needed"), "{error}");
    }

    fn probe(image: &[u8]) -> Result<Kernel, KernelError> {
        Kernel::probe(Arch::X86_64, &Source::from_bytes(image), None)
    }

    #[test]
    fn the_header_is_read() {
        let kernel = probe(&image()).unwrap();
        assert_eq!(kernel.segments, [Segment { offset: 1024, size: 4096, target: Target::Kernel(0) }]);
        assert_eq!(kernel.entry, Target::Kernel(0x200));
        assert_eq!(kernel.cmdline_max, 2047);
        assert_eq!(kernel.initrd_limit, u64::MAX);
        assert_eq!(kernel.setup_header.len(), 0x26C - 0x1F1);
        let expected = KernelExtent::BzImage {
            load_size: 4096,
            pref_address: 0x100_0000,
            alignment: 0x20_0000,
            init_size: 0x200_0000,
        };
        assert_eq!(kernel.extent, expected);
    }

    #[test]
    fn an_initrd_of_an_older_kernel_has_a_limit() {
        let mut image = image();
        image[0x236] = XLF_KERNEL_64 as u8;
        assert_eq!(probe(&image).unwrap().initrd_limit, 0x8000_0000);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let image = image();
        // The last paragraph's padding may be missing, not more.
        for size in 1..=image.len() - 16 {
            assert!(probe(&image[..size]).is_err(), "{size} bytes");
            assert!(handover(&Source::from_bytes(&image[..size])).is_err(), "{size} bytes");
        }
    }

    #[test]
    fn images_without_a_64_bit_entry_are_refused() {
        let with = |at: usize, value: u8| {
            let mut image = image();
            image[at] = value;
            probe(&image).unwrap_err().to_string()
        };
        assert!(with(0x206, 0x0B).contains("boot protocol 2.11"));
        assert!(with(0x236, 0).contains("XLF_KERNEL_64"));
        assert!(with(0x211, 0).contains("LOADED_HIGH"));
        assert!(with(0x231, 0x01).contains("power of two"));
        assert!(with(0x1F5, 0xFF).contains("truncated"));
    }

    #[test]
    fn the_payload_is_what_the_header_says_less_its_size() {
        let mut image = image();
        image[0x248..0x24C].copy_from_slice(&0x100_u32.to_le_bytes());
        image[0x24C..0x250].copy_from_slice(&0x20_u32.to_le_bytes());
        image[1024 + 0x100..1024 + 0x120].fill(7);
        let with = |at: usize, value: u32| {
            let mut image = image.clone();
            image[at..at + 4].copy_from_slice(&value.to_le_bytes());
            payload(&Source::from_bytes(&image))
        };
        assert_eq!(with(0x24C, 0x20).unwrap().prefix::<0x20>().unwrap()[..0x1D], [&[7; 0x1C][..], &[0]].concat());
        assert_eq!(with(0x24C, 0x20).unwrap().size(), 0x1C);
        // The last bytes of a gzip stream are its own size.
        assert_eq!(with(1024 + 0x100, 0x8B1F).unwrap().size(), 0x20);
        assert!(with(0x24C, 4).unwrap_err().to_string().contains("no payload"));
        for (at, value) in [(0x248, u32::MAX), (0x24C, u32::MAX), (0x24C, 4096 - 0x100 + 1)] {
            assert!(with(at, value).unwrap_err().to_string().contains("truncated"));
        }
    }

    #[test]
    fn a_payload_that_carpel_cannot_unpack_is_left_to_the_stub() {
        const LIMIT: u64 = 1 << 20;
        let mut image = image();
        image[0x248..0x24C].copy_from_slice(&0x100_u32.to_le_bytes());
        image[0x24C..0x250].copy_from_slice(&0x20_u32.to_le_bytes());
        image[1024 + 0x100..1024 + 0x109].copy_from_slice(b"\x89LZO\0\r\n\x1A\n");
        let unpack = |wanted| unpack(Arch::X86_64, Source::from_bytes(&image), wanted, LIMIT);
        let stub = Kernel::probe(Arch::X86_64, &unpack(None).unwrap().kernel, None).unwrap();
        assert_eq!((stub.format, stub.boot), (Format::BzImage, Boot::Linux));
        assert!(unpack(Some(Boot::Pvh)).unwrap_err().to_string().contains("by LZO, which carpel does not unpack"));
    }
}
