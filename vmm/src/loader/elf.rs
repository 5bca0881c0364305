//! ELF kernels. Sources: Tool Interface Standard, ELF specification 1.2; System V ABI, "ELF-64 Object File Format"; Xen,
//! xen/include/public/elfnote.h.

mod notes;

use carpel_arch::map::{Arch, Boot, KernelExtent};

use super::error::KernelError;
use super::fields::Fields;
use super::kernel::{Format, Kernel, Segment, Target};
use super::source::Source;
use super::{machines, multiboot};
use notes::Notes;

/// Kernels have fewer than ten; the limit bounds what a hostile file makes us read.
const MAX_PROGRAM_HEADERS: usize = 128;
/// Linux has less than 1 KiB of notes; the limit is for hostile files, too.
const MAX_NOTES: u64 = 64 << 10;
/// Magic number, class, byte order.
const IDENT_SIZE: usize = 16;
const ELFCLASS32: u8 = 1;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const ELFDATA2MSB: u8 = 2;
/// Where both classes have `e_machine`, in bytes.
const MACHINE: usize = 18;
const EM_386: u16 = 3;
const ET_REL: u16 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// The note that names the PVH entry, of the owner "Xen".
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
const XEN: &[u8] = b"Xen\0";
/// The longest command line that carpel passes an ELF kernel, which cannot say what it takes: x86 Linux's limit, NUL
/// excluded (`COMMAND_LINE_SIZE`).
const CMDLINE_MAX: usize = 2047;

/// Whether the file starts with ELF's magic number.
pub fn is_elf(start: &[u8]) -> bool {
    start.starts_with(b"\x7FELF")
}

/// The ways to boot an ELF, the best first.
///
/// Multiboot comes first: an ELF with such a header is a small kernel, whose other entry, if any, is less tried. The PVH
/// note comes next, for it says how to enter the kernel where the bare entry point says nothing: that only Linux's own
/// ELF is entered there in 64-bit mode is a convention.
pub fn ways(arch: Arch, source: &Source) -> Result<Vec<Kernel>, KernelError> {
    let elf = Elf::read(arch, source)?;
    let mut ways = Vec::new();
    if arch == Arch::X86_64 {
        ways.extend(multiboot::parse(source, Some(&elf))?);
        ways.extend(elf.by_note(source)?);
    }
    match elf.by_entry_point() {
        Ok(kernel) => ways.push(kernel),
        Err(error) if ways.is_empty() => return Err(error),
        Err(_) => {}
    }
    Ok(ways)
}

/// What shows that an ELF file is Linux; none if nothing does.
pub fn linux(arch: Arch, source: &Source) -> Result<Option<&'static str>, KernelError> {
    Elf::read(arch, source)?.linux(source)
}

/// The headers of an ELF file, checked against the file's size.
pub struct Elf {
    class: &'static Class,
    entry: u64,
    loads: Vec<Program>,
    notes: Vec<Program>,
    /// The lowest physical address that is loaded.
    pub start: u64,
    /// The highest, exclusive.
    pub end: u64,
}

/// A program header.
struct Program {
    offset: u64,
    virtual_address: u64,
    physical_address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// Where the two classes have their fields, in bytes.
struct Class {
    bits: u8,
    header_size: usize,
    program_header_size: usize,
    table: usize,
    entry_size: usize,
    count: usize,
    /// Of a program header: offset, virtual and physical address, size in the file and in memory, alignment.
    program: [usize; 6],
}

const CLASS32: Class = Class {
    bits: 32,
    header_size: 52,
    program_header_size: 32,
    table: 28,
    entry_size: 42,
    count: 44,
    program: [4, 8, 12, 16, 20, 28],
};
const CLASS64: Class = Class {
    bits: 64,
    header_size: 64,
    program_header_size: 56,
    table: 32,
    entry_size: 54,
    count: 56,
    program: [8, 16, 24, 32, 40, 48],
};
/// Where both have the entry point.
const ENTRY: usize = 24;

impl Class {
    fn word(&self, fields: &Fields, at: usize) -> u64 {
        if self.bits == 32 { u64::from(fields.u32(at)) } else { fields.u64(at) }
    }
}

impl Elf {
    /// Reads the ELF header and the program headers.
    fn read(arch: Arch, source: &Source) -> Result<Self, KernelError> {
        let unfit = |reason: String| KernelError::unfit(Format::Elf, reason);
        let ident = read(source, 0, IDENT_SIZE)?;
        if let Some(error) = of_another(arch, source, &ident)? {
            return Err(error);
        }
        let class = match (ident[4], ident[5]) {
            (ELFCLASS32, ELFDATA2LSB) if arch == Arch::X86_64 => &CLASS32,
            (ELFCLASS64, ELFDATA2LSB) => &CLASS64,
            _ => return Err(unfit(format!("it is not the little-endian ELF of {arch}"))),
        };
        let header = read(source, 0, class.header_size)?;
        let header = Fields(&header);
        let (kind, machine) = (header.u16(16), header.u16(18));
        if machine != machine_of(arch, class) {
            return Err(unfit(format!("it is for ELF machine {machine}, not for {arch}")));
        }
        match kind {
            ET_EXEC | ET_DYN => {}
            ET_REL => return Err(unfit("it is an object file, such as a kernel module".into())),
            ET_CORE => return Err(unfit("it is a core dump".into())),
            _ => return Err(unfit(format!("its ELF type {kind} is neither executable nor position-independent"))),
        }
        let table = class.word(&header, class.table);
        let (entry_size, count) = (usize::from(header.u16(class.entry_size)), usize::from(header.u16(class.count)));
        if count > 0 && entry_size != class.program_header_size || count > MAX_PROGRAM_HEADERS {
            return Err(unfit(format!("it has {count} program headers of {entry_size} bytes")));
        }
        let entry = class.word(&header, ENTRY);
        let mut elf = Self { class, entry, loads: Vec::new(), notes: Vec::new(), start: u64::MAX, end: 0 };
        for index in 0..count {
            let at = table.saturating_add((index * class.program_header_size) as u64);
            let bytes = read(source, at, class.program_header_size)?;
            elf.add(index, &Fields(&bytes), source)?;
        }
        if elf.loads.iter().all(|program| program.file_size == 0) {
            return Err(unfit("it has nothing to load".into()));
        }
        Ok(elf)
    }

    fn add(&mut self, index: usize, fields: &Fields, source: &Source) -> Result<(), KernelError> {
        let [offset, virtual_address, physical_address, file_size, memory_size, align] =
            self.class.program.map(|at| self.class.word(fields, at));
        let program = Program { offset, virtual_address, physical_address, file_size, memory_size, align };
        match fields.u32(0) {
            PT_NOTE => {
                require(source, offset, file_size)?;
                self.notes.push(program);
            }
            PT_LOAD if memory_size > 0 => {
                let end = physical_address.checked_add(memory_size).filter(|_| file_size <= memory_size);
                let end = end.ok_or_else(|| {
                    let reason = format!(
                        "segment {index} of {file_size:#x} bytes does not fit {memory_size:#x} bytes \
                         at {physical_address:#x}"
                    );
                    KernelError::unfit(Format::Elf, reason)
                })?;
                require(source, offset, file_size)?;
                (self.start, self.end) = (self.start.min(physical_address), self.end.max(end));
                self.loads.push(program);
            }
            _ => {}
        }
        Ok(())
    }

    const fn extent(&self) -> KernelExtent {
        KernelExtent::Fixed { start: self.start, end: self.end }
    }

    /// What to load.
    pub fn segments(&self) -> Vec<Segment> {
        let loads = self.loads.iter().filter(|program| program.file_size > 0);
        loads
            .map(|program| Segment {
                offset: program.offset,
                size: program.file_size,
                target: Target::At(program.physical_address),
            })
            .collect()
    }

    /// The entry point as a physical address: linkers give it as a virtual one, unless told otherwise. None if it is in
    /// no segment.
    pub fn physical_entry(&self) -> Option<u64> {
        let holds =
            |start: u64, program: &Program| self.entry.checked_sub(start).filter(|&at| at < program.memory_size);
        let by_virtual = self
            .loads
            .iter()
            .find_map(|program| Some(program.physical_address + holds(program.virtual_address, program)?));
        by_virtual.or_else(|| {
            self.loads.iter().find_map(|program| holds(program.physical_address, program).map(|_| self.entry))
        })
    }

    /// The error for an entry point that is in no segment.
    pub fn entry_outside(&self, format: Format) -> KernelError {
        let Self { entry, start, end, .. } = self;
        let reason = format!("its entry point {entry:#x} is outside its segments at {start:#x}-{end:#x}");
        KernelError::unfit(format, reason)
    }

    /// Linux's own convention: entered in 64-bit mode at the entry point, which is a physical address.
    fn by_entry_point(&self) -> Result<Kernel, KernelError> {
        if self.class.bits == 32 {
            let reason = "it is a 32-bit ELF with neither a Multiboot header nor a PVH note";
            return Err(KernelError::unfit(Format::Elf, reason));
        }
        if !(self.start..self.end).contains(&self.entry) {
            return Err(self.entry_outside(Format::Elf));
        }
        Ok(self.kernel(Boot::Linux, self.entry, "it is an ELF, entered at its entry point as Linux's is"))
    }

    /// Xen's PVH: entered in 32-bit mode where a note says.
    fn by_note(&self, source: &Source) -> Result<Option<Kernel>, KernelError> {
        for program in &self.notes {
            let notes = read(source, program.offset, program.file_size.min(MAX_NOTES) as usize)?;
            let Some(entry) = phys32_entry(&notes, program.align) else { continue };
            if !(self.start..self.end).contains(&entry) || u32::try_from(entry).is_err() {
                let (start, end) = (self.start, self.end);
                let reason = format!("its PVH note's entry {entry:#x} is outside its segments at {start:#x}-{end:#x}");
                return Err(KernelError::unfit(Format::Elf, reason));
            }
            return Ok(Some(self.kernel(Boot::Pvh, entry, "it is an ELF whose PVH note names the entry")));
        }
        Ok(None)
    }

    fn kernel(&self, boot: Boot, entry: u64, reason: &'static str) -> Kernel {
        Kernel {
            boot,
            reason,
            format: Format::Elf,
            extent: self.extent(),
            segments: self.segments(),
            entry: Target::At(entry),
            initrd_limit: u64::MAX,
            cmdline_max: CMDLINE_MAX,
            setup_header: Vec::new(),
            // Whoever boots it looks.
            linux: None,
        }
    }
}

/// The PVH entry among these notes.
fn phys32_entry(notes: &[u8], align: u64) -> Option<u64> {
    let (.., value) =
        Notes::new(notes, align).find(|&(owner, kind, _)| (owner, kind) == (XEN, XEN_ELFNOTE_PHYS32_ENTRY))?;
    match value.len() {
        4 => Some(u64::from(Fields(value).u32(0))),
        8 => Some(Fields(value).u64(0)),
        _ => None,
    }
}

/// The error for a file that is another architecture's, by the name of that.
fn of_another(arch: Arch, source: &Source, ident: &[u8]) -> Result<Option<KernelError>, KernelError> {
    let (bits, is_big_endian) = (if ident[4] == ELFCLASS32 { 32 } else { 64 }, ident[5] == ELFDATA2MSB);
    let start = source.prefix::<{ MACHINE + 2 }>()?;
    let machine = Fields(&start).u16(MACHINE);
    let machine = if is_big_endian { machine.swap_bytes() } else { machine };
    let Some((name, other)) = machines::elf_machine(machine, bits) else { return Ok(None) };
    let other = other.filter(|_| !is_big_endian);
    // What is wrong with one of the guest's own is told below.
    Ok((other != Some(arch)).then(|| {
        let extent = other.and_then(|other| Elf::read(other, source).ok()).map(|elf| elf.extent());
        machines::architecture(Format::Elf.name(), name, other, arch, extent)
    }))
}

const fn machine_of(arch: Arch, class: &Class) -> u16 {
    match arch {
        Arch::X86_64 if class.bits == 32 => EM_386,
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

fn read(source: &Source, offset: u64, size: usize) -> Result<Vec<u8>, KernelError> {
    require(source, offset, size as u64)?;
    let mut bytes = vec![0; size];
    source.read(offset, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An ELF with one segment: 16 bytes of file, a page of memory at 1 MiB, entered at its start.
    pub fn image() -> Vec<u8> {
        let mut image = vec![0; 64 + 56 + 16];
        image[..6].copy_from_slice(b"\x7FELF\x02\x01");
        image[16..20].copy_from_slice(&[2, 0, 62, 0]);
        image[24..32].copy_from_slice(&0x10_0000_u64.to_le_bytes());
        image[32] = 64;
        image[54] = 56;
        image[56] = 1;
        image[64] = 1;
        image[64 + 8] = 120;
        for address in [64 + 16, 64 + 24] {
            image[address..address + 8].copy_from_slice(&0x10_0000_u64.to_le_bytes());
        }
        image[64 + 32] = 16;
        image[64 + 40..64 + 48].copy_from_slice(&0x1000_u64.to_le_bytes());
        image
    }

    /// The same as a 32-bit ELF.
    fn image32() -> Vec<u8> {
        let mut image = vec![0; 52 + 32 + 16];
        image[..6].copy_from_slice(b"\x7FELF\x01\x01");
        image[16..20].copy_from_slice(&[2, 0, 3, 0]);
        image[24..28].copy_from_slice(&0x10_0000_u32.to_le_bytes());
        image[28] = 52;
        image[42] = 32;
        image[44] = 1;
        let words = [1, 84, 0x10_0000, 0x10_0000, 16, 0x1000_u32];
        for (at, word) in (52..).step_by(4).zip(words) {
            image[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        image
    }

    /// Adds a note segment with a note that is not looked for and Xen's with this entry.
    pub fn with_note(entry: &[u8], align: u8) -> Vec<u8> {
        with_notes(&[(b"GNU\0", 3, &[7; 20]), (XEN, XEN_ELFNOTE_PHYS32_ENTRY, entry)], align)
    }

    /// Adds a note segment with these notes.
    pub fn with_notes(added: &[notes::Note], align: u8) -> Vec<u8> {
        let mut notes = Vec::new();
        for &(name, kind, value) in added {
            for word in [name.len() as u32, value.len() as u32, kind] {
                notes.extend(word.to_le_bytes());
            }
            notes.extend(name);
            notes.resize(notes.len().next_multiple_of(usize::from(align)), 0);
            notes.extend(value);
            notes.resize(notes.len().next_multiple_of(usize::from(align)), 0);
        }
        let mut image = image();
        let mut header = [0; 56];
        header[0] = PT_NOTE as u8;
        header[8..16].copy_from_slice(&(image.len() as u64 + 56).to_le_bytes());
        header[32] = notes.len() as u8;
        header[48] = align;
        // The second header goes behind the first, and what the first loads moves on.
        image[56] = 2;
        image[64 + 8] += 56;
        image.splice(120..120, header);
        image.extend(notes);
        image
    }

    fn ways(image: &[u8]) -> Result<Vec<Kernel>, KernelError> {
        Kernel::ways(Arch::X86_64, &Source::from_bytes(image))
    }

    fn probe(image: &[u8]) -> Result<Kernel, KernelError> {
        Ok(ways(image)?.swap_remove(0))
    }

    #[test]
    fn a_segment_is_read() {
        let kernel = probe(&image()).unwrap();
        assert_eq!(kernel.boot, Boot::Linux);
        assert_eq!(kernel.segments, [Segment { offset: 120, size: 16, target: Target::At(0x10_0000) }]);
        assert_eq!(kernel.extent, KernelExtent::Fixed { start: 0x10_0000, end: 0x10_1000 });
        assert_eq!(kernel.entry, Target::At(0x10_0000));
    }

    #[test]
    fn a_note_names_the_pvh_entry() {
        for (entry, align) in
            [(&[0x20, 0, 0x10, 0][..], 4), (&[0x20, 0, 0x10, 0, 0, 0, 0, 0], 4), (&[0x20, 0, 0x10, 0], 8)]
        {
            let offered = ways(&with_note(entry, align)).unwrap();
            let entries: Vec<_> = offered.iter().map(|way| (way.boot, way.entry)).collect();
            assert_eq!(entries, [(Boot::Pvh, Target::At(0x10_0020)), (Boot::Linux, Target::At(0x10_0000))]);
        }
        // Neither is an address.
        assert_eq!(ways(&with_note(&[0; 2], 4)).unwrap().len(), 1);
        assert!(ways(&with_note(&[0; 4], 4)).unwrap_err().to_string().contains("PVH note"));
    }

    #[test]
    fn a_virtual_entry_is_translated() {
        let mut image = image();
        let high = 0xFFFF_FFFF_8010_0000_u64;
        image[64 + 16..64 + 24].copy_from_slice(&high.to_le_bytes());
        image[24..32].copy_from_slice(&(high + 0x30).to_le_bytes());
        let elf = Elf::read(Arch::X86_64, &Source::from_bytes(&image)).unwrap();
        assert_eq!(elf.physical_entry(), Some(0x10_0030));
        image[24..32].copy_from_slice(&0x10_0FFF_u64.to_le_bytes());
        let elf = Elf::read(Arch::X86_64, &Source::from_bytes(&image)).unwrap();
        assert_eq!(elf.physical_entry(), Some(0x10_0FFF));
        image[24..32].copy_from_slice(&(high + 0x1000).to_le_bytes());
        let elf = Elf::read(Arch::X86_64, &Source::from_bytes(&image)).unwrap();
        assert_eq!(elf.physical_entry(), None);
    }

    #[test]
    fn a_32_bit_elf_is_read_and_needs_more_than_an_entry_point() {
        let elf = Elf::read(Arch::X86_64, &Source::from_bytes(&image32())).unwrap();
        assert_eq!((elf.start, elf.end, elf.physical_entry()), (0x10_0000, 0x10_1000, Some(0x10_0000)));
        assert!(ways(&image32()).unwrap_err().to_string().contains("32-bit ELF"));
        assert!(Kernel::ways(Arch::Aarch64, &Source::from_bytes(&image32())).is_err());
    }

    #[test]
    fn every_truncation_is_an_error() {
        for image in [image(), image32(), with_note(&[0x20, 0, 0x10, 0], 4)] {
            for size in 1..image.len() {
                assert!(probe(&image[..size]).is_err(), "{size} bytes");
            }
        }
    }

    #[test]
    fn notes_that_lie_are_no_notes() {
        let notes = with_note(&[0x20, 0, 0x10, 0], 4).split_off(64 + 2 * 56 + 16);
        assert_eq!(phys32_entry(&notes, 4), Some(0x10_0020));
        for size in 0..notes.len() {
            assert_eq!(phys32_entry(&notes[..size], 4), None, "{size} bytes");
        }
        for at in [0, 4] {
            let mut lying = notes.clone();
            lying[at..at + 4].fill(0xFF);
            assert_eq!(phys32_entry(&lying, 4), None);
        }
    }

    #[test]
    fn lying_headers_are_refused() {
        let with = |at: usize, value: u8| {
            let mut image = image();
            image[at] = value;
            probe(&image).unwrap_err().to_string()
        };
        assert!(with(4, 3).contains("little-endian"));
        assert!(with(5, 2).contains("little-endian"));
        assert!(with(18, 183).contains("is for aarch64, not for x86_64"));
        assert!(with(16, 1).contains("an object file, such as a kernel module"));
        assert!(with(57, 0xFF).contains("program headers"));
        assert!(with(54, 0).contains("program headers"));
        assert!(with(39, 0xFF).contains("truncated"));
        assert!(with(64, 0).contains("nothing to load"));
        assert!(with(27, 1).contains("entry point"));
        assert!(with(64 + 15, 0xFF).contains("truncated"));
        assert!(with(64 + 38, 1).contains("does not fit"));
    }
}
