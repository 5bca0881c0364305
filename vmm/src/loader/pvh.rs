//! What a PVH guest is handed, `struct hvm_start_info`. Sources: Xen, docs/misc/pvh.pandoc and
//! xen/include/public/arch-x86/hvm/start_info.h.

use carpel_arch::map::{MemoryMap, MissingRow, RowName};
use carpel_arch::x86_64::maps::e820;
use carpel_arch::x86_64::structures::Structures;
use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry,
    hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued as _;

/// The version that has a memory map.
const VERSION: u32 = 1;

/// Builds the structure, at guest physical address `base`, followed by all that it points to: the command line, the
/// initial RAM disk as the only module, and the memory map.
pub fn build(base: u32, map: &MemoryMap, cmdline: &str) -> Result<Vec<u8>, MissingRow> {
    let mut structures = Structures::new(base, size_of::<hvm_start_info>());
    let cmdline = structures.add_string(cmdline);
    let modules: Vec<hvm_modlist_entry> = map
        .claim(RowName::Initrd)
        .map(|initrd| hvm_modlist_entry { paddr: initrd.start, size: initrd.size(), ..Default::default() })
        .into_iter()
        .collect();
    let memory: Vec<_> = e820(map)
        .into_iter()
        .map(|entry| hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.end - entry.start,
            type_: if entry.usable { XEN_HVM_MEMMAP_TYPE_RAM } else { XEN_HVM_MEMMAP_TYPE_RESERVED },
            ..Default::default()
        })
        .collect();
    let modules_at = structures.add(&modules.iter().flat_map(|entry| entry.as_slice().to_vec()).collect::<Vec<_>>());
    let memory_at = structures.add(&memory.iter().flat_map(|entry| entry.as_slice().to_vec()).collect::<Vec<_>>());
    let info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: modules.len() as u32,
        modlist_paddr: modules_at.into(),
        cmdline_paddr: cmdline.into(),
        rsdp_paddr: map.need_claim(RowName::Acpi)?.start,
        memmap_paddr: memory_at.into(),
        memmap_entries: memory.len() as u32,
        ..Default::default()
    };
    structures.set(0, info.as_slice());
    Ok(structures.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use carpel_arch::map::{Arch, Boot, Inputs, KernelExtent};
    use carpel_arch::x86_64::maps::KRUN;

    const BASE: u32 = 0x8_0020;

    fn u64_at(bytes: &[u8], address: u64) -> u64 {
        let at = (address - u64::from(BASE)) as usize;
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    fn info(initrd: u64) -> Vec<u8> {
        let kernel = Some(KernelExtent::Fixed { start: 16 << 20, end: 32 << 20 });
        let inputs = Inputs { boot: Boot::Pvh, kernel, initrd, ..Inputs::new(Arch::X86_64, 64 << 20) };
        build(BASE, &carpel_arch::resolve(&KRUN, &inputs).unwrap(), "quiet").unwrap()
    }

    #[test]
    fn fields_stand_where_the_header_has_them() {
        let bytes = info(0x1234);
        let field = |offset| u64_at(&bytes, u64::from(BASE) + offset);
        assert_eq!(bytes[..4], 0x336E_C578_u32.to_le_bytes());
        assert_eq!((field(0) >> 32, field(8) >> 32, field(32)), (1, 1, 0xE_0000));
        let cmdline = (field(24) - u64::from(BASE)) as usize;
        assert_eq!(&bytes[cmdline..cmdline + 6], b"quiet\0");
        let module = field(16);
        assert_eq!((u64_at(&bytes, module), u64_at(&bytes, module + 8)), (0x3FF_E000, 0x1234));
        let entries: Vec<_> = (0..field(48) & 0xFFFF_FFFF)
            .map(|index| field(40) + index * 24)
            .map(|at| (u64_at(&bytes, at), u64_at(&bytes, at + 8), u64_at(&bytes, at + 16)))
            .collect();
        let expected = [
            (0, 0x9_FC00, 1),
            (0x9_FC00, 0x400, 2),
            (0xE_0000, 0x1_0000, 2),
            (0xF_0000, 0x1_0000, 2),
            (0x10_0000, 0x3F0_0000, 1),
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn without_an_initrd_there_is_no_module() {
        assert_eq!(info(0)[12..16], [0; 4]);
    }
}
