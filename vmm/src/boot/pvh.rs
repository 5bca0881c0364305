//! What a PVH guest is handed, `struct hvm_start_info`. Sources: Xen, docs/misc/pvh.pandoc and
//! xen/include/public/arch-x86/hvm/start_info.h.

use carpel_arch::map::{MemoryMap, MissingRow, RowName};
use carpel_arch::x86_64::maps::{E820Entry, e820};
use carpel_arch::x86_64::structures::Structures;

/// Bytes of the structure's version 1.
const INFO_SIZE: usize = 56;
/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336E_C578;
/// The version that has a memory map.
const VERSION: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_RAM` and `XEN_HVM_MEMMAP_TYPE_RESERVED`.
const TYPE_RAM: u64 = 1;
const TYPE_RESERVED: u64 = 2;

/// Builds the structure, at guest physical address `base`, followed by all that it points to: the command line, the
/// initial RAM disk as the only module, and the memory map.
pub fn build(base: u32, map: &MemoryMap, cmdline: &str) -> Result<Vec<u8>, MissingRow> {
    let mut structures = Structures::new(base, INFO_SIZE);
    let cmdline = structures.add_string(cmdline);
    let initrd = map.claim(RowName::Initrd);
    // Address, size, no command line, reserved.
    let modules = initrd.map(|initrd| words(&[initrd.start, initrd.size(), 0, 0])).unwrap_or_default();
    let modules_at = structures.add(&modules);
    let entries = e820(map);
    // Start, size, type, the last with 32 reserved bits above it.
    let entry = |entry: &E820Entry| {
        words(&[entry.start, entry.end - entry.start, if entry.usable { TYPE_RAM } else { TYPE_RESERVED }])
    };
    let memory_at = structures.add(&entries.iter().flat_map(entry).collect::<Vec<_>>());
    let modules = u32::from(initrd.is_some());
    for (offset, value) in [(0, MAGIC), (4, VERSION), (12, modules), (48, entries.len() as u32)] {
        structures.set(offset, &value.to_le_bytes());
    }
    let rsdp = map.need_claim(RowName::Acpi)?.start;
    for (offset, address) in [(16, modules_at.into()), (24, cmdline.into()), (32, rsdp), (40, memory_at.into())] {
        structures.set(offset, &u64::to_le_bytes(address));
    }
    Ok(structures.into_bytes())
}

fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
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
