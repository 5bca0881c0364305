//! Multiboot 1. Source: Multiboot Specification 0.6.96, section 3.1 ("OS image format").

use carpel_arch::map::{Boot, KernelExtent};
use carpel_arch::x86_64::multiboot::CMDLINE_MAX;

use super::elf::Elf;
use super::error::KernelError;
use super::fields::Fields;
use super::kernel::{Format, Kernel, Segment, Target};
use super::source::Source;

/// The header lies within this many bytes from the start of the file.
const SEARCHED: usize = 8192;
const MAGIC: u32 = 0x1BAD_B002;
/// Bytes of the header without and with the address fields.
const HEADER_SIZE: usize = 12;
const HEADER_WITH_ADDRESSES: usize = 32;
/// Modules on page boundaries, and information on memory: both are always given.
const FLAGS_GIVEN: u32 = 1 << 0 | 1 << 1;
const FLAG_VIDEO: u32 = 1 << 2;
/// The address fields are valid, and count even where the file is an ELF.
const FLAG_ADDRESSES: u32 = 1 << 16;

/// A header and where it lies in the file.
struct Header {
    offset: u64,
    flags: u32,
    bytes: Vec<u8>,
}

/// The kernel that the file's Multiboot header describes; none if there is no header, or one that leaves the addresses
/// to an ELF which the file is not.
pub fn parse(source: &Source, elf: Option<&Elf>) -> Result<Option<Kernel>, KernelError> {
    let Some(header) = find(source)? else { return Ok(None) };
    let kernel = match elf {
        _ if header.flags & FLAG_ADDRESSES != 0 => by_addresses(source, &header)?,
        Some(elf) => by_elf(elf)?,
        None => return Ok(None),
    };
    let ignored = header.flags & !(FLAGS_GIVEN | FLAG_ADDRESSES);
    if ignored & FLAG_VIDEO != 0 {
        log::debug!("The Multiboot header asks for a video mode, of which there is none: ignored");
    }
    if ignored & !FLAG_VIDEO != 0 {
        log::debug!("The Multiboot header has flags that nothing defines, {:#x}: ignored", ignored & !FLAG_VIDEO);
    }
    Ok(Some(kernel))
}

fn find(source: &Source) -> Result<Option<Header>, KernelError> {
    // Not on the stack, where so much would touch pages that nothing else does.
    let mut start = vec![0; SEARCHED];
    source.read(0, &mut start[..source.size().min(SEARCHED as u64) as usize])?;
    let fields = Fields(&start);
    let found = (0..=SEARCHED - HEADER_SIZE).step_by(4).find(|&at| {
        let sum = fields.u32(at).wrapping_add(fields.u32(at + 4)).wrapping_add(fields.u32(at + 8));
        fields.u32(at) == MAGIC && sum == 0
    });
    let Some(at) = found else { return Ok(None) };
    let flags = fields.u32(at + 4);
    let size = if flags & FLAG_ADDRESSES == 0 { HEADER_SIZE } else { HEADER_WITH_ADDRESSES };
    let needed = (at + size) as u64;
    if needed > source.size() {
        return Err(KernelError::Truncated { format: Format::Multiboot.name(), size: source.size(), needed });
    }
    let mut bytes = vec![0; size];
    source.read(at as u64, &mut bytes)?;
    Ok(Some(Header { offset: at as u64, flags, bytes }))
}

/// The header itself says what to load where.
fn by_addresses(source: &Source, header: &Header) -> Result<Kernel, KernelError> {
    let unfit = |reason: String| KernelError::unfit(Format::Multiboot, reason);
    let fields = Fields(&header.bytes);
    let field = |at| u64::from(fields.u32(at));
    let (header_addr, load, load_end, bss_end, entry) = (field(12), field(16), field(20), field(24), field(28));
    // What is loaded starts as far before the header in the file as in memory.
    let offset =
        header_addr.checked_sub(load).and_then(|before| header.offset.checked_sub(before)).ok_or_else(|| {
            let at = header.offset;
            unfit(format!(
                "it wants {load:#x} loaded from before the file: its header at {at:#x} belongs to {header_addr:#x}"
            ))
        })?;
    // 0: up to the end of the file.
    let size = match load_end {
        0 => source.size() - offset,
        end => end
            .checked_sub(load)
            .filter(|&size| size > 0)
            .ok_or_else(|| unfit(format!("it wants to be loaded to {load:#x}-{end:#x}")))?,
    };
    if source.size() < offset + size {
        let needed = offset + size;
        return Err(KernelError::Truncated { format: Format::Multiboot.name(), size: source.size(), needed });
    }
    let end = bss_end.max(load + size);
    if bss_end != 0 && bss_end < load + size {
        return Err(unfit(format!("its bss ends at {bss_end:#x}, inside what is loaded up to {end:#x}")));
    }
    if !(load..end).contains(&entry) {
        return Err(unfit(format!("its entry point {entry:#x} is outside {load:#x}-{end:#x}")));
    }
    let segments = vec![Segment { offset, size, target: Target::At(load) }];
    Ok(kernel(segments, KernelExtent::Fixed { start: load, end }, entry, "its Multiboot header has addresses"))
}

fn by_elf(elf: &Elf) -> Result<Kernel, KernelError> {
    let unfit = |reason: String| KernelError::unfit(Format::Multiboot, reason);
    let (start, end) = (elf.start, elf.end);
    let entry = elf.physical_entry().ok_or_else(|| elf.entry_outside(Format::Multiboot))?;
    if u32::try_from(entry).is_err() {
        return Err(unfit(format!("its entry point {entry:#x} is beyond what its 32-bit code can reach")));
    }
    let extent = KernelExtent::Fixed { start, end };
    Ok(kernel(elf.segments(), extent, entry, "it is an ELF with a Multiboot header"))
}

fn kernel(segments: Vec<Segment>, extent: KernelExtent, entry: u64, reason: &'static str) -> Kernel {
    Kernel {
        boot: Boot::Multiboot,
        reason,
        format: Format::Multiboot,
        extent,
        segments,
        entry: Target::At(entry),
        initrd_limit: u64::MAX,
        cmdline_max: CMDLINE_MAX,
        setup_header: Vec::new(),
        linux: None,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::loader::elf::tests::image as elf_image;
    use carpel_arch::map::Arch;

    const LOAD: u32 = 0x10_0000;
    /// The header's offset in the file, the size of what lies before it that is not loaded, and the image's size.
    const AT: usize = 0x40;
    const SKIPPED: usize = 0x10;
    const SIZE: usize = 0x200;

    fn header(flags: u32, addresses: &[u32]) -> Vec<u8> {
        let words = [MAGIC, flags, 0_u32.wrapping_sub(MAGIC.wrapping_add(flags))];
        words.iter().chain(addresses).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// A flat image: its header at 0x40 of the file, loaded from 0x10 on to 1 MiB, with a page of bss.
    pub fn flat() -> Vec<u8> {
        let mut image = vec![0x90; SIZE];
        let load_end = LOAD + (SIZE - SKIPPED) as u32;
        let addresses = [LOAD + (AT - SKIPPED) as u32, LOAD, load_end, load_end + 0x1000, LOAD + 0x60];
        let header = header(FLAG_ADDRESSES | 0b11, &addresses);
        image[AT..AT + header.len()].copy_from_slice(&header);
        image
    }

    fn with_header(mut image: Vec<u8>, flags: u32) -> Vec<u8> {
        image.resize(image.len().next_multiple_of(4), 0);
        image.extend(header(flags, &[]));
        image
    }

    fn ways(image: &[u8]) -> Result<Vec<Kernel>, KernelError> {
        Kernel::ways(Arch::X86_64, &Source::from_bytes(image))
    }

    fn only(image: &[u8]) -> Result<Kernel, KernelError> {
        Ok(ways(image)?.swap_remove(0))
    }

    #[test]
    fn address_fields_say_what_is_loaded_where() {
        let kernel = only(&flat()).unwrap();
        assert_eq!((kernel.boot, kernel.format), (Boot::Multiboot, Format::Multiboot));
        let size = (SIZE - SKIPPED) as u64;
        assert_eq!(kernel.segments, [Segment { offset: 0x10, size, target: Target::At(0x10_0000) }]);
        assert_eq!(kernel.extent, KernelExtent::Fixed { start: 0x10_0000, end: 0x10_0000 + size + 0x1000 });
        assert_eq!(kernel.entry, Target::At(0x10_0060));
    }

    #[test]
    fn a_load_end_of_0_means_the_end_of_the_file() {
        let mut image = flat();
        image[AT + 20..AT + 28].fill(0);
        let kernel = only(&image).unwrap();
        let size = (SIZE - SKIPPED) as u64;
        assert_eq!(kernel.segments[0].size, size);
        assert_eq!(kernel.extent, KernelExtent::Fixed { start: 0x10_0000, end: 0x10_0000 + size });
    }

    #[test]
    fn address_fields_count_more_than_the_elf_around_them() {
        let mut image = elf_image();
        image.resize(0x100, 0);
        let at = 0x10_0000 + image.len() as u32;
        image.extend(header(FLAG_ADDRESSES, &[at, 0x10_0000, 0, 0, 0x10_0080]));
        let offered = ways(&image).unwrap();
        assert_eq!(offered[0].boot, Boot::Multiboot);
        assert_eq!(offered[0].segments[0].offset, 0);
        assert_eq!(offered[0].entry, Target::At(0x10_0080));
    }

    #[test]
    fn an_elf_with_a_header_is_entered_by_multiboot_first() {
        // Video and undefined flags are not held against it.
        for flags in [0, 0b111, 0xFFFE_FFFF] {
            let offered = ways(&with_header(elf_image(), flags)).unwrap();
            assert_eq!(offered.iter().map(|way| way.boot).collect::<Vec<_>>(), [Boot::Multiboot, Boot::Linux]);
            assert_eq!(offered[0].entry, Target::At(0x10_0000));
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let image = flat();
        for size in 1..image.len() {
            assert!(ways(&image[..size]).is_err(), "{size} bytes");
        }
    }

    #[test]
    fn lying_headers_are_refused() {
        let with = |at: usize, value: u32| {
            let mut image = flat();
            image[AT + at..AT + at + 4].copy_from_slice(&value.to_le_bytes());
            ways(&image).unwrap_err().to_string()
        };
        assert!(with(12, LOAD - 4).contains("before the file"));
        assert!(with(12, LOAD + 0x1000).contains("before the file"));
        assert!(with(16, u32::MAX).contains("before the file"));
        assert!(with(20, LOAD).contains("loaded to"));
        assert!(with(20, LOAD - 1).contains("loaded to"));
        assert!(with(20, u32::MAX).contains("truncated"));
        assert!(with(24, LOAD).contains("bss ends"));
        assert!(with(28, 0).contains("entry point"));
        assert!(with(28, u32::MAX).contains("entry point"));
        // A wrong checksum makes it no header at all.
        assert!(with(8, 0).contains("neither"));
    }

    #[test]
    fn a_header_past_the_first_8_kib_is_none() {
        let mut image = vec![0; SEARCHED - HEADER_SIZE + 4];
        image.extend(header(FLAG_ADDRESSES, &[0; 5]));
        assert!(ways(&image).unwrap_err().to_string().contains("neither"));
    }
}
