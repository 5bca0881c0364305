//! The zero page (`struct boot_params`) of the x86 64-bit boot protocol. Source: Linux,
//! Documentation/arch/x86/zero-page.rst and boot.rst.

use std::ops::Range;

use carpel_arch::map::{MemoryMap, MissingRow, RowName};
use carpel_arch::x86_64::maps::e820;

use crate::loader::{Kernel, SETUP_HEADER};

/// The structure's size in bytes.
const SIZE: usize = 4096;
/// Where the setup header may stand: what follows is the structure's own again.
const SETUP_HEADER_PLACE: Range<usize> = SETUP_HEADER..0x290;

/// Fields of the structure, by their offset in bytes.
const ACPI_RSDP_ADDR: usize = 0x070;
const EXT_RAMDISK_IMAGE: usize = 0x0C0;
const EXT_RAMDISK_SIZE: usize = 0x0C4;
const EXT_CMD_LINE_PTR: usize = 0x0C8;
const E820_ENTRIES: usize = 0x1E8;
const E820_TABLE: usize = 0x2D0;
/// Fields of the setup header in it.
const BOOT_FLAG: usize = 0x1FE;
const HEADER: usize = 0x202;
const TYPE_OF_LOADER: usize = 0x210;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21C;
const CMD_LINE_PTR: usize = 0x228;
const KERNEL_ALIGNMENT: usize = 0x230;
const CMDLINE_SIZE: usize = 0x238;

/// Boot loader id for one that has none assigned.
const LOADER_UNDEFINED: u8 = 0xFF;
const BOOT_FLAG_VALUE: u16 = 0xAA55;
const HEADER_MAGIC: [u8; 4] = *b"HdrS";
/// What an ELF kernel, which has no setup header, is told of its own alignment: `CONFIG_PHYSICAL_ALIGN`'s maximum.
const ELF_ALIGNMENT: u32 = 0x100_0000;

/// An entry of the memory map: start, size, type.
const E820_ENTRY: usize = 20;
/// `E820_MAX_ENTRIES_ZEROPAGE`.
const E820_MAX_ENTRIES: usize = 128;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Builds the zero page of a kernel in this map, whose command line has `cmdline_size` bytes without the final NUL.
pub fn build(map: &MemoryMap, kernel: &Kernel, cmdline_size: usize) -> Result<Vec<u8>, MissingRow> {
    let mut page = Page(vec![0; SIZE]);
    let known = kernel.setup_header.len().min(SETUP_HEADER_PLACE.len());
    page.set(SETUP_HEADER, &kernel.setup_header[..known]);
    if kernel.setup_header.is_empty() {
        page.set(BOOT_FLAG, &BOOT_FLAG_VALUE.to_le_bytes());
        page.set(HEADER, &HEADER_MAGIC);
        page.set(KERNEL_ALIGNMENT, &ELF_ALIGNMENT.to_le_bytes());
    }
    page.set(TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    page.set_split(CMD_LINE_PTR, EXT_CMD_LINE_PTR, map.need_claim(RowName::Cmdline)?.start);
    page.set(CMDLINE_SIZE, &(cmdline_size as u32).to_le_bytes());
    page.set(ACPI_RSDP_ADDR, &map.need_claim(RowName::Acpi)?.start.to_le_bytes());
    if let Some(initrd) = map.claim(RowName::Initrd) {
        page.set_split(RAMDISK_IMAGE, EXT_RAMDISK_IMAGE, initrd.start);
        page.set_split(RAMDISK_SIZE, EXT_RAMDISK_SIZE, initrd.size());
    }
    // A map has few regions and fewer reserved claims: far below what the table takes.
    let entries = e820(map);
    page.set(E820_ENTRIES, &[entries.len() as u8]);
    for (index, entry) in entries.iter().take(E820_MAX_ENTRIES).enumerate() {
        let kind = if entry.usable { E820_RAM } else { E820_RESERVED };
        let at = E820_TABLE + index * E820_ENTRY;
        page.set(at, &entry.start.to_le_bytes());
        page.set(at + 8, &(entry.end - entry.start).to_le_bytes());
        page.set(at + 16, &kind.to_le_bytes());
    }
    Ok(page.0)
}

/// The structure in the making.
struct Page(Vec<u8>);

impl Page {
    fn set(&mut self, at: usize, field: &[u8]) {
        self.0[at..at + field.len()].copy_from_slice(field);
    }

    /// A value of 64 bits in two fields: the low half in the setup header, the high one in the structure.
    fn set_split(&mut self, low: usize, high: usize, value: u64) {
        self.set(low, &(value as u32).to_le_bytes());
        self.set(high, &((value >> 32) as u32).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::{Source, samples};
    use carpel_arch::map::{Arch, Inputs};
    use carpel_arch::x86_64::maps::KRUN;

    fn u32_at(page: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn fields_stand_where_the_specification_has_them() {
        let kernel = Kernel::probe(Arch::X86_64, &Source::from_bytes(&samples::bzimage()), None).unwrap();
        let inputs = Inputs { kernel: Some(kernel.extent), initrd: 0x1234, ..Inputs::new(Arch::X86_64, 4 << 30) };
        let map = carpel_arch::resolve(&KRUN, &inputs).unwrap();
        let page = build(&map, &kernel, 7).unwrap();
        assert_eq!(page.len(), 4096);
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(page[0x210], 0xFF);
        assert_eq!(u32_at(&page, 0x228), 0x2_0000);
        assert_eq!(u32_at(&page, 0x238), 7);
        assert_eq!(u32_at(&page, 0x070), 0xE_0000);
        assert_eq!(u32_at(&page, 0x218), 0xC000_0000 - 0x2000);
        assert_eq!(u32_at(&page, 0x21C), 0x1234);
        let entries: Vec<_> = (0..usize::from(page[0x1E8]))
            .map(|index| {
                let at = 0x2D0 + index * 20;
                let (start, size) = (u32_at(&page, at), u32_at(&page, at + 8));
                (start, size, u32_at(&page, at + 16))
            })
            .collect();
        let expected = [
            (0, 0x9_FC00, 1),
            (0x9_FC00, 0x400, 2),
            (0xE_0000, 0x1_0000, 2),
            (0xF_0000, 0x1_0000, 2),
            (0x10_0000, 0xBFF0_0000, 1),
            (0, 0x4000_0000, 1),
        ];
        assert_eq!(entries, expected);
        assert_eq!(u32_at(&page, 0x2D0 + 5 * 20 + 4), 1, "the last entry is at 4 GiB");
    }
}
