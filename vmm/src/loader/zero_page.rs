//! The zero page (`struct boot_params`) of the x86 64-bit boot protocol. Source: Linux,
//! Documentation/arch/x86/zero-page.rst and boot.rst.

use carpel_arch::map::{MemoryMap, MissingRow, RowName};
use carpel_arch::x86_64::maps::e820;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

use super::Kernel;

/// Boot loader id for one that has none assigned.
const LOADER_UNDEFINED: u8 = 0xFF;
const BOOT_FLAG: u16 = 0xAA55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// What an ELF kernel, which has no setup header, is told of its own alignment: `CONFIG_PHYSICAL_ALIGN`'s maximum.
const ELF_ALIGNMENT: u32 = 0x100_0000;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Builds the zero page of a kernel in this map, whose command line has `cmdline_size` bytes without the final NUL.
pub fn build(map: &MemoryMap, kernel: &Kernel, cmdline_size: usize) -> Result<Vec<u8>, MissingRow> {
    let mut header = setup_header::default();
    // A newer kernel's header may be longer than the structure; what no field here names is of no use to it.
    let known = kernel.setup_header.len().min(header.as_slice().len());
    header.as_mut_slice()[..known].copy_from_slice(&kernel.setup_header[..known]);

    if kernel.setup_header.is_empty() {
        header.boot_flag = BOOT_FLAG;
        header.header = HEADER_MAGIC;
        header.kernel_alignment = ELF_ALIGNMENT;
    }
    header.type_of_loader = LOADER_UNDEFINED;
    let cmdline = map.need_claim(RowName::Cmdline)?.start;
    (header.cmd_line_ptr, header.cmdline_size) = (cmdline as u32, cmdline_size as u32);

    let acpi_rsdp_addr = map.need_claim(RowName::Acpi)?.start;
    let mut page = boot_params { acpi_rsdp_addr, ext_cmd_line_ptr: high(cmdline), ..Default::default() };
    if let Some(initrd) = map.claim(RowName::Initrd) {
        (header.ramdisk_image, page.ext_ramdisk_image) = (initrd.start as u32, high(initrd.start));
        (header.ramdisk_size, page.ext_ramdisk_size) = (initrd.size() as u32, high(initrd.size()));
    }
    page.hdr = header;
    let entries = e820(map);
    // A map has few regions and fewer reserved claims: far below the table's 128 entries.
    page.e820_entries = entries.len() as u8;
    for (slot, entry) in page.e820_table.iter_mut().zip(&entries) {
        let r#type = if entry.usable { E820_RAM } else { E820_RESERVED };
        *slot = boot_e820_entry { addr: entry.start, size: entry.end - entry.start, r#type };
    }
    Ok(page.as_slice().to_vec())
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::Source;
    use crate::loader::bzimage::tests::image;
    use carpel_arch::map::{Arch, Inputs};
    use carpel_arch::x86_64::maps::KRUN;

    fn u32_at(page: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(page[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn fields_stand_where_the_specification_has_them() {
        let kernel = Kernel::probe(Arch::X86_64, &Source::from_bytes(&image()), None).unwrap();
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
