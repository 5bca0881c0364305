//! ELF kernels, entered in 64-bit mode at their entry point. Source: Tool Interface Standard, ELF specification 1.2,
//! and System V ABI, "ELF-64 Object File Format".

use carpel_arch::map::{Arch, KernelExtent};

use super::fields::Fields;
use super::{Format, Kernel, KernelError, Segment, Source, Target};

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Kernels have fewer than ten; the limit bounds what a hostile file makes us read.
const MAX_PROGRAM_HEADERS: usize = 128;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
/// The longest command line that carpel passes an ELF kernel, which cannot say what it takes: x86 Linux's limit, NUL
/// excluded (`COMMAND_LINE_SIZE`).
const CMDLINE_MAX: usize = 2047;

/// Whether the file starts with ELF's magic number.
pub fn is_elf(start: &[u8]) -> bool {
    start.starts_with(b"\x7FELF")
}

/// Reads the ELF header and the program headers.
pub fn parse(arch: Arch, source: &Source) -> Result<Kernel, KernelError> {
    let unfit = |reason: String| KernelError::unfit(Format::Elf, reason);
    let header = read::<HEADER_SIZE>(source, 0)?;
    let header = Fields(&header);
    if (header.u8(4), header.u8(5)) != (ELFCLASS64, ELFDATA2LSB) {
        return Err(unfit("it is not 64-bit little-endian".into()));
    }
    let (kind, machine) = (header.u16(16), header.u16(18));
    if machine != elf_machine(arch) {
        return Err(unfit(format!("it is for ELF machine {machine}, not for {arch}")));
    }
    if kind != ET_EXEC && kind != ET_DYN {
        return Err(unfit(format!("its ELF type {kind} is neither executable nor position-independent")));
    }
    let (entry, table) = (header.u64(24), header.u64(32));
    let (entry_size, count) = (usize::from(header.u16(54)), usize::from(header.u16(56)));
    if count > 0 && entry_size != PROGRAM_HEADER_SIZE || count > MAX_PROGRAM_HEADERS {
        return Err(unfit(format!("it has {count} program headers of {entry_size} bytes")));
    }

    let mut segments = Vec::new();
    let (mut start, mut end) = (u64::MAX, 0);
    for index in 0..count {
        let at = table.checked_add((index * PROGRAM_HEADER_SIZE) as u64);
        let program = read::<PROGRAM_HEADER_SIZE>(source, at.unwrap_or(u64::MAX))?;
        let program = Fields(&program);
        let (offset, address) = (program.u64(8), program.u64(24));
        let (file_size, memory_size) = (program.u64(32), program.u64(40));
        if program.u32(0) != PT_LOAD || memory_size == 0 {
            continue;
        }
        let segment_end = address.checked_add(memory_size).filter(|_| file_size <= memory_size);
        let segment_end = segment_end.ok_or_else(|| {
            unfit(format!(
                "segment {index} of {file_size:#x} bytes does not fit {memory_size:#x} bytes at {address:#x}"
            ))
        })?;
        require(source, offset, file_size)?;
        (start, end) = (start.min(address), end.max(segment_end));
        if file_size > 0 {
            segments.push(Segment { offset, size: file_size, target: Target::At(address) });
        }
    }
    if segments.is_empty() {
        return Err(unfit("it has nothing to load".into()));
    }
    if !(start..end).contains(&entry) {
        return Err(unfit(format!("its entry point {entry:#x} is outside its segments at {start:#x}-{end:#x}")));
    }
    Ok(Kernel {
        format: Format::Elf,
        extent: KernelExtent::Fixed { start, end },
        segments,
        entry: Target::At(entry),
        initrd_limit: u64::MAX,
        cmdline_max: CMDLINE_MAX,
        setup_header: Vec::new(),
    })
}

const fn elf_machine(arch: Arch) -> u16 {
    match arch {
        Arch::X86_64 => 62,
        Arch::Aarch64 => 183,
        Arch::Riscv64 => 243,
    }
}

fn require(source: &Source, offset: u64, size: u64) -> Result<(), KernelError> {
    let needed = offset.saturating_add(size);
    if needed > source.size() {
        return Err(KernelError::Truncated { format: Format::Elf.name(), size: source.size(), needed });
    }
    Ok(())
}

fn read<const N: usize>(source: &Source, offset: u64) -> Result<[u8; N], KernelError> {
    require(source, offset, N as u64)?;
    let mut bytes = [0; N];
    source.read(offset, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF with one segment: 16 bytes of file, a page of memory at 1 MiB, entered at its start.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 64 + 56 + 16];
        image[..6].copy_from_slice(b"\x7FELF\x02\x01");
        image[16..20].copy_from_slice(&[2, 0, 62, 0]);
        image[24..32].copy_from_slice(&0x10_0000_u64.to_le_bytes());
        image[32] = 64;
        image[54] = 56;
        image[56] = 1;
        image[64] = 1;
        image[64 + 8] = 120;
        image[64 + 24..64 + 32].copy_from_slice(&0x10_0000_u64.to_le_bytes());
        image[64 + 32] = 16;
        image[64 + 40..64 + 48].copy_from_slice(&0x1000_u64.to_le_bytes());
        image
    }

    fn probe(image: &[u8]) -> Result<Kernel, KernelError> {
        Kernel::probe(Arch::X86_64, &Source::from_bytes(image))
    }

    #[test]
    fn a_segment_is_read() {
        let kernel = probe(&image()).unwrap();
        assert_eq!(kernel.segments, [Segment { offset: 120, size: 16, target: Target::At(0x10_0000) }]);
        assert_eq!(kernel.extent, KernelExtent::Fixed { start: 0x10_0000, end: 0x10_1000 });
        assert_eq!(kernel.entry, Target::At(0x10_0000));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let image = image();
        for size in 1..image.len() {
            assert!(probe(&image[..size]).is_err(), "{size} bytes");
        }
    }

    #[test]
    fn lying_headers_are_refused() {
        let with = |at: usize, value: u8| {
            let mut image = image();
            image[at] = value;
            probe(&image).unwrap_err().to_string()
        };
        assert!(with(4, 1).contains("64-bit"));
        assert!(with(18, 183).contains("machine 183"));
        assert!(with(16, 1).contains("type 1"));
        assert!(with(57, 0xFF).contains("program headers"));
        assert!(with(54, 0).contains("program headers"));
        assert!(with(39, 0xFF).contains("truncated"));
        assert!(with(64, 0).contains("nothing to load"));
        assert!(with(27, 1).contains("entry point"));
        assert!(with(64 + 15, 0xFF).contains("truncated"));
        assert!(with(64 + 38, 1).contains("does not fit"));
    }
}
