//! What a Multiboot loader hands to a kernel. Source: Multiboot Specification 0.6.96, section 3.3 ("Boot information
//! format").

use super::maps::E820Entry;
use super::structures::Structures;

/// What EAX holds at the entry (section 3.2).
pub const BOOTLOADER_MAGIC: u32 = 0x2BAD_B002;

/// The longest command line in bytes, NUL excluded: half of what the map sets aside for all structures. A kernel cannot
/// say what it takes.
pub const CMDLINE_MAX: usize = (32 << 10) - 1;

/// A file that was loaded along with the kernel. Addresses are guest physical ones; the end is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Its first byte.
    pub start: u32,
    /// Its end.
    pub end: u32,
    /// The string that goes with it: its name.
    pub name: &'a str,
}

/// What a kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct Info<'a> {
    /// The name of the kernel and its arguments.
    pub cmdline: &'a str,
    /// The files loaded with it.
    pub modules: &'a [Module<'a>],
    /// The machine's memory, sorted.
    pub memory: &'a [E820Entry],
}

/// The information structure, at `base`, followed by all that it points to. `base` is a multiple of 8; no string may
/// contain a NUL.
///
/// The size in bytes is below 160 + 24 for each range of memory + 24 for each module + all strings.
pub fn build(base: u32, info: &Info<'_>) -> Vec<u8> {
    let mut structures = Structures::new(base, INFO_SIZE);
    let cmdline = structures.add_string(info.cmdline);
    let loader = structures.add_string(LOADER_NAME);
    let names: Vec<u32> = info.modules.iter().map(|module| structures.add_string(module.name)).collect();
    let modules: Vec<u8> =
        info.modules.iter().zip(names).flat_map(|(module, name)| module_entry(module, name)).collect();
    let modules_at = structures.add(&modules);
    let memory: Vec<u8> = info.memory.iter().flat_map(memory_entry).collect();
    let memory_at = structures.add(&memory);

    let (lower, upper) = (usable_from(info.memory, 0), usable_from(info.memory, UPPER_MEMORY));
    for (offset, value) in [
        (0_usize, FLAG_MEMORY | FLAG_CMDLINE | FLAG_MODULES | FLAG_MEMORY_MAP | FLAG_LOADER_NAME),
        (4, (lower / KIB) as u32),
        (8, u32::try_from(upper / KIB).unwrap_or(u32::MAX)),
        (16, cmdline),
        (20, info.modules.len() as u32),
        (24, modules_at),
        (44, memory.len() as u32),
        (48, memory_at),
        (64, loader),
    ] {
        structures.set(offset, &value.to_le_bytes());
    }
    structures.into_bytes()
}

const LOADER_NAME: &str = concat!("carpel ", env!("CARGO_PKG_VERSION"));
/// Bytes of the structure up to the end of the framebuffer's fields, so that a kernel which reads fields without
/// looking at the flags finds zeros.
const INFO_SIZE: usize = 116;
const KIB: u64 = 1 << 10;
/// `mem_upper` counts from here.
const UPPER_MEMORY: u64 = 1 << 20;

/// Bits of the first field: which others are there.
const FLAG_MEMORY: u32 = 1 << 0;
const FLAG_CMDLINE: u32 = 1 << 2;
const FLAG_MODULES: u32 = 1 << 3;
const FLAG_MEMORY_MAP: u32 = 1 << 6;
const FLAG_LOADER_NAME: u32 = 1 << 9;

/// Types of memory.
const AVAILABLE: u32 = 1;
const RESERVED: u32 = 2;

/// Bytes of usable memory from `start` to the first hole.
fn usable_from(memory: &[E820Entry], start: u64) -> u64 {
    let range = memory.iter().find(|entry| entry.usable && entry.start == start);
    range.map_or(0, |entry| entry.end - entry.start)
}

fn module_entry(module: &Module<'_>, name: u32) -> Vec<u8> {
    [module.start, module.end, name, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

/// An entry's first field is its size without that field.
fn memory_entry(entry: &E820Entry) -> Vec<u8> {
    const SIZE: u32 = 20;
    let mut bytes = SIZE.to_le_bytes().to_vec();
    bytes.extend(entry.start.to_le_bytes());
    bytes.extend((entry.end - entry.start).to_le_bytes());
    bytes.extend(if entry.usable { AVAILABLE } else { RESERVED }.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u32 = 0x8_0020;

    /// A kernel's view of the structure.
    struct View(Vec<u8>);

    impl View {
        fn u32(&self, address: u32) -> u32 {
            let at = (address - BASE) as usize;
            u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
        }

        fn field(&self, offset: u32) -> u32 {
            self.u32(BASE + offset)
        }

        fn text(&self, address: u32) -> &str {
            let text = &self.0[(address - BASE) as usize..];
            let end = text.iter().position(|&byte| byte == 0).unwrap();
            std::str::from_utf8(&text[..end]).unwrap()
        }
    }

    fn memory() -> Vec<E820Entry> {
        vec![
            E820Entry { start: 0, end: 0x9_FC00, usable: true },
            E820Entry { start: 0x9_FC00, end: 0xA_0000, usable: false },
            E820Entry { start: 0x10_0000, end: 0xC000_0000, usable: true },
            E820Entry { start: 0x1_0000_0000, end: 0x2_0000_0000, usable: true },
        ]
    }

    #[test]
    fn fields_stand_where_the_specification_has_them() {
        let modules = [Module { start: 0x20_0000, end: 0x20_1234, name: "init.img" }];
        let view = View(build(BASE, &Info { cmdline: "kernel a=b", modules: &modules, memory: &memory() }));
        assert_eq!(view.field(0), 0b10_0100_1101);
        assert_eq!((view.field(4), view.field(8)), (639, (0xC000_0000 - 0x10_0000) / 1024));
        assert_eq!(view.text(view.field(16)), "kernel a=b");
        assert!(view.text(view.field(64)).starts_with("carpel "));
        assert_eq!(view.field(20), 1);
        let module = view.field(24);
        assert_eq!((view.u32(module), view.u32(module + 4)), (0x20_0000, 0x20_1234));
        assert_eq!(view.text(view.u32(module + 8)), "init.img");
        assert_eq!(module % 4, 0);

        let (length, at) = (view.field(44), view.field(48));
        let mut entries = Vec::new();
        let mut entry = at;
        while entry < at + length {
            entries.push((view.u32(entry + 4), view.u32(entry + 8), view.u32(entry + 12), view.u32(entry + 20)));
            entry += view.u32(entry) + 4;
        }
        let expected = [(0, 0, 0x9_FC00, 1), (0x9_FC00, 0, 0x400, 2), (0x10_0000, 0, 0xBFF0_0000, 1), (0, 1, 0, 1)];
        assert_eq!(entries, expected);
    }

    #[test]
    fn without_modules_their_count_is_0() {
        let view = View(build(BASE, &Info { cmdline: "kernel", modules: &[], memory: &memory() }));
        assert_eq!(view.field(20), 0);
        assert_eq!(view.field(0) & FLAG_MODULES, FLAG_MODULES);
    }

    #[test]
    fn memory_beyond_what_32_bits_count_saturates() {
        let memory = [E820Entry { start: 0x10_0000, end: 1 << 52, usable: true }];
        let view = View(build(BASE, &Info { cmdline: "", modules: &[], memory: &memory }));
        assert_eq!((view.field(4), view.field(8)), (0, u32::MAX));
    }
}
