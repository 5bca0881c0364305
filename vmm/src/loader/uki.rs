//! Unified kernel images: an EFI program whose sections hold a kernel, its initial RAM disk and its command line. Sources: UAPI Group
//! Specifications, "Unified Kernel Image (UKI)"; Microsoft, "PE Format".

use carpel_arch::map::Arch;

use super::error::KernelError;
use super::fields::Fields;
use super::machines;
use super::source::Source;

/// The start of a DOS program, which every PE image is, and where that has the PE header's offset.
const DOS_HEADER: usize = 64;
const PE_OFFSET: usize = 0x3C;
/// Signature and file header.
const FILE_HEADER: usize = 24;
/// A row of the section table.
const SECTION: usize = 40;
/// A command line is text of a few KiB at most.
const CMDLINE_MAX: u64 = 64 << 10;

const FORMAT: &str = "unified kernel image";

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

/// The file header and the section table of a PE image.
pub struct Pe {
    /// For which processor it is (`IMAGE_FILE_MACHINE_*`).
    pub machine: u16,
    sections: Vec<u8>,
}

impl Pe {
    /// Reads the headers; none if the file is something else, or cut off.
    pub fn read(source: &Source) -> Result<Option<Self>, KernelError> {
        let dos = source.prefix::<DOS_HEADER>()?;
        if dos[..2] != *b"MZ" {
            return Ok(None);
        }
        let at = u64::from(Fields(&dos).u32(PE_OFFSET));
        let Some(header) = source.part(at, FILE_HEADER as u64) else { return Ok(None) };
        let header = header.prefix::<FILE_HEADER>()?;
        if header[..4] != *b"PE\0\0" {
            return Ok(None);
        }
        let header = Fields(&header);
        let table = at + FILE_HEADER as u64 + u64::from(header.u16(20));
        let size = usize::from(header.u16(6)) * SECTION;
        let Some(table) = source.part(table, size as u64) else { return Ok(None) };
        let mut sections = vec![0; size];
        table.read(0, &mut sections)?;
        Ok(Some(Self { machine: header.u16(4), sections }))
    }

    /// A section's contents: the first of the name, for what follows are the image's other profiles. None if it has none or an empty one.
    fn section(&self, source: &Source, name: &[u8]) -> Result<Option<Source>, KernelError> {
        let mut padded = [0; 8];
        padded[..name.len()].copy_from_slice(name);
        let Some(row) = self.sections.chunks_exact(SECTION).find(|row| row[..8] == padded) else { return Ok(None) };
        let row = Fields(row);
        let (memory, raw, offset) = (row.u32(8), row.u32(16), row.u32(20));
        // The file has the section padded; some tools do not say how large it is in memory.
        let size = u64::from(if memory == 0 { raw } else { memory.min(raw) });
        if size == 0 {
            return Ok(None);
        }
        let needed = u64::from(offset) + size;
        let truncated = || KernelError::Truncated { format: FORMAT, size: source.size(), needed };
        source.part(offset.into(), size).map(Some).ok_or_else(truncated)
    }
}

/// What a unified kernel image holds; none if the file is something else. Other sections than these three are for its EFI program.
pub fn open(arch: Arch, source: &Source) -> Result<Option<Image>, KernelError> {
    let Some(pe) = Pe::read(source)? else { return Ok(None) };
    let Some(kernel) = pe.section(source, b".linux")? else { return Ok(None) };
    if let Some((machine, other)) = machines::pe_machine(pe.machine).filter(|&(_, other)| other != Some(arch)) {
        return Err(machines::architecture(FORMAT, machine, other, arch, None));
    }
    let initrd = pe.section(source, b".initrd")?;
    let cmdline = pe.section(source, b".cmdline")?.map(|section| cmdline(&section)).transpose()?;
    Ok(Some(Image { kernel, initrd, cmdline }))
}

/// The text, on one line: files that it is made of end in a newline, and some tools end it with a NUL.
fn cmdline(section: &Source) -> Result<String, KernelError> {
    let mut bytes = vec![0; section.size().min(CMDLINE_MAX) as usize];
    section.read(0, &mut bytes)?;
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const X86_64: u16 = 0x8664;
    const ALIGNMENT: usize = 0x200;

    /// An image of these sections, each padded in the file.
    pub fn image(machine: u16, sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; ALIGNMENT];
        image[..2].copy_from_slice(b"MZ");
        image[PE_OFFSET] = 0x40;
        image[0x40..0x44].copy_from_slice(b"PE\0\0");
        image[0x44..0x46].copy_from_slice(&machine.to_le_bytes());
        image[0x46] = sections.len() as u8;
        image[0x40 + 20] = 16;
        for (index, (name, bytes)) in sections.iter().enumerate() {
            let at = 0x40 + FILE_HEADER + 16 + index * SECTION;
            let (offset, raw) = (image.len() as u32, bytes.len().next_multiple_of(ALIGNMENT) as u32);
            image[at..at + name.len()].copy_from_slice(name.as_bytes());
            for (field, value) in [(8, bytes.len() as u32), (16, raw), (20, offset)] {
                image[at + field..at + field + 4].copy_from_slice(&value.to_le_bytes());
            }
            image.extend(*bytes);
            image.resize((offset + raw) as usize, 0);
        }
        image
    }

    fn read(image: &[u8]) -> Result<Option<Image>, KernelError> {
        open(Arch::X86_64, &Source::from_bytes(image))
    }

    fn bytes(source: &Source) -> Vec<u8> {
        let mut bytes = vec![0; source.size() as usize];
        source.read(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn its_parts_are_what_the_sections_hold() {
        let sections: [(&str, &[u8]); 6] = [
            (".osrel", b"ID=test\n"),
            (".cmdline", b"root=/dev/vda\n ro\tquiet \n\0garbage"),
            (".initrd", b"an initrd"),
            (".uname", b"6.1"),
            (".linux", b"a kernel"),
            (".linux", b"another profile's"),
        ];
        let Image { kernel, initrd, cmdline } = read(&image(X86_64, &sections)).unwrap().unwrap();
        assert_eq!((bytes(&kernel), bytes(&initrd.unwrap())), (b"a kernel".to_vec(), b"an initrd".to_vec()));
        assert_eq!(cmdline.unwrap(), "root=/dev/vda ro quiet");
        let alone = read(&image(X86_64, &[(".linux", b"a kernel"), (".initrd", b"")])).unwrap().unwrap();
        assert!(alone.initrd.is_none() && alone.cmdline.is_none());
    }

    #[test]
    fn another_program_and_every_truncation_are_told_apart() {
        let image = image(X86_64, &[(".text", b"code"), (".linux", &[7; 1000])]);
        for size in 1..=image.len() {
            match read(&image[..size]) {
                Ok(None) => assert!(size < 0x40 + FILE_HEADER + 16 + 2 * SECTION, "{size}"),
                Ok(Some(uki)) => assert!(size >= ALIGNMENT * 2 + 1000 && uki.kernel.size() == 1000, "{size}"),
                Err(error) => assert!(error.to_string().contains("unified kernel image is truncated"), "{error}"),
            }
        }
        assert!(read(&super::tests::image(X86_64, &[(".text", b"code")])).unwrap().is_none());
    }

    #[test]
    fn another_architectures_is_refused_by_name() {
        let error = read(&image(0xAA64, &[(".linux", b"a kernel")])).err().unwrap().to_string();
        assert!(error.contains("unified kernel image is for aarch64, not for x86_64"), "{error}");
    }
}
