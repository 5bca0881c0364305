//! Reading a guest's virtual map from its page tables. Source: Intel SDM volume 3, sections 4.3 to 4.5.
//!
//! The tables are the guest's: they may loop, overlap or lead nowhere. A walk reads a bounded number of them and returns
//! a bounded number of ranges.

use std::ops::ControlFlow;

use thiserror::Error;

/// Entries of 8 bytes in a page, which is what a walk's `read` fills.
pub const TABLE_ENTRIES: usize = 512;

/// So many tables are read at most: those of 32 GiB in pages of 4 KiB, or 64 MiB of tables.
const MAX_TABLES: usize = 1 << 14;
/// So many ranges are returned at most: more than anybody reads.
const MAX_RANGES: usize = 4096;

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51 to 12: the physical address of a table or page.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Of a 32-bit entry for 4 MiB: bits 31-22 of the address, and 39-32 in bits 20-13 (section 4.3, table 4-4).
const ADDRESS_4M: u64 = 0xffc0_0000;
const ADDRESS_4M_HIGH: u64 = 0xff << 13;
const ADDRESS_4M_SHIFT: u32 = 32 - 13;

/// The registers that decide how addresses are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Registers {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// The extended feature enable register.
    pub efer: u64,
}

/// Why there is no virtual map to read.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoMap {
    /// Linear addresses are physical ones.
    #[error("Paging is off")]
    PagingOff,
}

/// How addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Two levels of 32-bit entries, which may map 4 MiB if CR4.PSE is set.
    Bits32 { large: bool },
    /// Three levels, the first of four entries.
    Pae,
    /// Four or five levels.
    Long { levels: u32 },
}

/// What a page may be used for, over all levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// It may be written.
    pub write: bool,
    /// Instructions may be fetched from it.
    pub execute: bool,
    /// Ring 3 may use it.
    pub user: bool,
}

/// Neighbouring virtual addresses with the same rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// First virtual address.
    pub start: u64,
    /// Last virtual address.
    pub last: u64,
    /// Guest physical address of the first page.
    pub physical: u64,
    /// The physical pages follow each other, too.
    pub linear: bool,
    /// An entry that leads back to a table above it: through these addresses the guest reads its page tables.
    pub recursive: bool,
    /// Its rights.
    pub rights: Rights,
}

/// What the tables map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualMap {
    /// Levels of tables: 2 for 32-bit paging, 3 for PAE, 4 or 5 in long mode.
    pub levels: u32,
    /// Sorted as the tables are: by address, the upper half last.
    pub ranges: Vec<Range>,
    /// Where the walk stopped because there was too much; the rest is not in `ranges`.
    pub stopped_at: Option<u64>,
    /// Tables that could not be read: outside RAM.
    pub unreadable: u64,
}

/// Walks the tables that `registers` refer to. `read` fills a table from a page-aligned guest physical address and says
/// whether it could.
pub fn walk(
    registers: &Registers,
    read: impl FnMut(u64, &mut [u64; TABLE_ENTRIES]) -> bool,
) -> Result<VirtualMap, NoMap> {
    if registers.cr0 & CR0_PG == 0 {
        return Err(NoMap::PagingOff);
    }
    let mode = Mode::of(registers);
    let root = registers.cr3 & mode.root_mask();
    let map = VirtualMap { levels: mode.levels(), ranges: Vec::new(), stopped_at: None, unreadable: 0 };
    let no_execute = registers.efer & EFER_NXE != 0;
    let mut walker = Walker { read, mode, no_execute, path: vec![root], tables: 0, map };
    // Stopping early is told in the map.
    let _ = walker.table(mode.levels(), 0, Rights { write: true, execute: true, user: true });
    Ok(walker.map)
}

impl Mode {
    const fn of(registers: &Registers) -> Self {
        match registers.cr4 {
            cr4 if registers.efer & EFER_LMA != 0 => Self::Long { levels: if cr4 & CR4_LA57 == 0 { 4 } else { 5 } },
            cr4 if cr4 & CR4_PAE != 0 => Self::Pae,
            cr4 => Self::Bits32 { large: cr4 & CR4_PSE != 0 },
        }
    }

    const fn levels(self) -> u32 {
        match self {
            Self::Bits32 { .. } => 2,
            Self::Pae => 3,
            Self::Long { levels } => levels,
        }
    }

    /// Of CR3, the bits that are the first table's address: PAE's is a part of a page.
    const fn root_mask(self) -> u64 {
        match self {
            Self::Bits32 { .. } => 0xffff_f000,
            Self::Pae => 0xffff_ffe0,
            Self::Long { .. } => ADDRESS,
        }
    }

    /// How far the index of a table of this level stands to the left in an address.
    const fn shift(self, level: u32) -> u32 {
        let bits = if matches!(self, Self::Bits32 { .. }) { 10 } else { 9 };
        12 + bits * (level - 1)
    }

    /// The entries of the table at `address` in its page.
    fn entries(self, level: u32, address: u64, page: &[u64; TABLE_ENTRIES]) -> Vec<u64> {
        match self {
            Self::Bits32 { .. } => page.iter().flat_map(|&pair| [pair & 0xffff_ffff, pair >> 32]).collect(),
            Self::Pae if level == 3 => page.iter().copied().skip((address as usize & 0xfff) / 8).take(4).collect(),
            Self::Pae | Self::Long { .. } => page.to_vec(),
        }
    }

    /// Whether a present entry maps memory itself, and if so, where it starts.
    const fn page(self, level: u32, entry: u64) -> Option<u64> {
        let below = (1 << self.shift(level)) - 1;
        match (self, level) {
            (_, 1) => Some(entry & ADDRESS),
            _ if entry & LARGE == 0 => None,
            (Self::Bits32 { large: true }, 2) => {
                Some(entry & ADDRESS_4M | (entry & ADDRESS_4M_HIGH) << ADDRESS_4M_SHIFT)
            }
            // In a large page's entry, bits below its size are flags.
            (Self::Pae, 2) | (Self::Long { .. }, 2 | 3) => Some(entry & ADDRESS & !below),
            _ => None,
        }
    }

    /// What an entry allows, of which PAE's first level says nothing.
    const fn rights(self, level: u32, entry: u64) -> u64 {
        if matches!((self, level), (Self::Pae, 3)) { WRITABLE | USER } else { entry }
    }
}

struct Walker<R> {
    read: R,
    mode: Mode,
    /// Bit 63 forbids execution.
    no_execute: bool,
    /// The tables from the root to the one being read.
    path: Vec<u64>,
    tables: usize,
    map: VirtualMap,
}

impl<R: FnMut(u64, &mut [u64; TABLE_ENTRIES]) -> bool> Walker<R> {
    /// Walks the last table of the path, which maps from `base` on.
    fn table(&mut self, level: u32, base: u64, rights: Rights) -> ControlFlow<()> {
        if self.tables == MAX_TABLES {
            self.map.stopped_at = Some(base);
            return ControlFlow::Break(());
        }
        self.tables += 1;
        let mut page = [0; TABLE_ENTRIES];
        let table = self.path.last().copied().unwrap_or_default();
        if !(self.read)(table & !0xfff, &mut page) {
            self.map.unreadable += 1;
            return ControlFlow::Continue(());
        }
        let entries = self.mode.entries(level, table, &page);
        for (index, entry) in (0_u64..).zip(entries).filter(|(_, entry)| entry & PRESENT != 0) {
            let start = self.canonical(base | index << self.mode.shift(level));
            self.entry(level, start, entry, rights)?;
        }
        ControlFlow::Continue(())
    }

    fn entry(&mut self, level: u32, start: u64, entry: u64, above: Rights) -> ControlFlow<()> {
        let flags = self.mode.rights(level, entry);
        let rights = Rights {
            write: above.write && flags & WRITABLE != 0,
            execute: above.execute && !(self.no_execute && flags & NO_EXECUTE != 0),
            user: above.user && flags & USER != 0,
        };
        let (target, page) = (entry & ADDRESS, self.mode.page(level, entry));
        let recursive = page.is_none() && self.path.contains(&target);
        if page.is_some() || recursive {
            let last = start | ((1 << self.mode.shift(level)) - 1);
            let physical = page.unwrap_or(target);
            return self.push(Range { start, last, physical, linear: !recursive, recursive, rights });
        }
        self.path.push(target);
        let flow = self.table(level - 1, start, rights);
        self.path.pop();
        flow
    }

    fn push(&mut self, range: Range) -> ControlFlow<()> {
        if let Some(before) = self.map.ranges.last_mut()
            && before.last.checked_add(1) == Some(range.start)
            && (before.rights, before.recursive) == (range.rights, range.recursive)
        {
            let follows = before.physical.wrapping_add(range.start - before.start) == range.physical;
            before.linear &= range.linear && follows;
            before.last = range.last;
            return ControlFlow::Continue(());
        }
        if self.map.ranges.len() == MAX_RANGES {
            self.map.stopped_at = Some(range.start);
            return ControlFlow::Break(());
        }
        self.map.ranges.push(range);
        ControlFlow::Continue(())
    }

    /// In long mode, copies the highest translated bit to all above it.
    const fn canonical(&self, address: u64) -> u64 {
        let Mode::Long { levels } = self.mode else { return address };
        let unused = 64 - (12 + 9 * levels);
        ((address << unused).cast_signed() >> unused).cast_unsigned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const LONG_MODE: Registers = Registers { cr0: CR0_PG, cr3: 0x1000, cr4: 0, efer: EFER_LMA };
    const ALL: u64 = PRESENT | WRITABLE | USER;
    const RWXU: Rights = Rights { write: true, execute: true, user: true };

    /// Tables by address, each with its entries that are not 0.
    type Tables<'a> = &'a [(u64, &'a [(usize, u64)])];

    fn walk_tables(registers: &Registers, tables: Tables) -> VirtualMap {
        let tables: HashMap<_, _> = tables.iter().copied().collect();
        let read = |address, table: &mut [u64; TABLE_ENTRIES]| {
            let Some(entries) = tables.get(&address) else { return false };
            entries.iter().for_each(|&(index, entry)| table[index] = entry);
            true
        };
        walk(registers, read).unwrap()
    }

    fn range(start: u64, last: u64, physical: u64) -> Range {
        Range { start, last, physical, linear: true, recursive: false, rights: RWXU }
    }

    #[test]
    fn neighbours_become_one_range_whatever_their_size() {
        let map = walk_tables(
            &LONG_MODE,
            &[
                (0x1000, &[(0, 0x2000 | ALL)]),
                (0x2000, &[(0, 0x3000 | ALL), (1, 0x4000_0000 | LARGE | ALL)]),
                (0x3000, &[(510, 0x3fc0_0000 | LARGE | ALL), (511, 0x4000 | ALL)]),
                (0x4000, &[(0, 0x3fe0_0000 | ALL), (511, 0x3fff_f000 | ALL)]),
            ],
        );
        let expected = [range(0x3fc0_0000, 0x3fe0_0fff, 0x3fc0_0000), range(0x3fff_f000, 0x7fff_ffff, 0x3fff_f000)];
        assert_eq!((map.levels, &map.ranges[..]), (4, &expected[..]));
        assert_eq!((map.stopped_at, map.unreadable), (None, 0));
    }

    #[test]
    fn pages_that_lie_apart_are_one_range_but_not_linear() {
        let map = walk_tables(
            &LONG_MODE,
            &[
                (0x1000, &[(0, 0x2000 | ALL)]),
                (0x2000, &[(0, 0x3000 | ALL)]),
                (0x3000, &[(0, 0x60_0000 | LARGE | ALL), (1, 0x20_0000 | LARGE | ALL)]),
            ],
        );
        assert_eq!(map.ranges, [Range { linear: false, ..range(0, 0x3f_ffff, 0x60_0000) }]);
    }

    #[test]
    fn rights_are_those_of_all_levels() {
        let tables: Tables = &[
            (0x1000, &[(0, 0x2000 | PRESENT | WRITABLE)]),
            (0x2000, &[(0, 0x3000 | ALL)]),
            (0x3000, &[(0, LARGE | ALL | NO_EXECUTE), (1, 0x20_0000 | LARGE | PRESENT | USER)]),
        ];
        let rights = |efer| -> Vec<_> {
            let map = walk_tables(&Registers { efer, ..LONG_MODE }, tables);
            map.ranges.iter().map(|range| (range.rights.write, range.rights.execute, range.rights.user)).collect()
        };
        assert_eq!(rights(EFER_LMA | EFER_NXE), [(true, false, false), (false, true, false)]);
        assert_eq!(rights(EFER_LMA), [(true, true, false), (false, true, false)]);
    }

    #[test]
    fn the_upper_half_ends_with_the_address_space() {
        let tables: Tables =
            &[(0x1000, &[(511, 0x2000 | ALL)]), (0x2000, &[(511, 0x3000 | ALL)]), (0x3000, &[(511, LARGE | ALL)])];
        let map = walk_tables(&LONG_MODE, tables);
        assert_eq!(map.ranges, [range(0xffff_ffff_ffe0_0000, u64::MAX, 0)]);
    }

    #[test]
    fn five_levels_reach_further() {
        let tables: Tables =
            &[(0x1000, &[(256, 0x2000 | ALL)]), (0x2000, &[(0, 0x3000 | ALL)]), (0x3000, &[(0, LARGE | ALL)])];
        let map = walk_tables(&Registers { cr4: CR4_LA57, cr3: 0x1fff, ..LONG_MODE }, tables);
        assert_eq!((map.levels, &map.ranges[..]), (5, &[range(0xff00_0000_0000_0000, 0xff00_0000_3fff_ffff, 0)][..]));
    }

    #[test]
    fn pae_has_three_levels_and_rights_on_two() {
        let registers = Registers { cr0: CR0_PG, cr3: 0x1020, cr4: CR4_PAE, efer: EFER_NXE };
        let map = walk_tables(
            &registers,
            &[
                // Four entries from the middle of the page; what follows them is not the table's.
                (0x1000, &[(3, 0x9000 | PRESENT), (4, 0x2000 | PRESENT), (7, 0x3000 | PRESENT), (8, 0x9000 | PRESENT)]),
                (0x2000, &[(0, LARGE | ALL), (1, 0x4000 | PRESENT | WRITABLE)]),
                (0x3000, &[(511, 0x1_0000_0000 | LARGE | ALL | NO_EXECUTE)]),
                (0x4000, &[(0, 0x20_0000 | ALL)]),
            ],
        );
        let kernel = Rights { user: false, ..RWXU };
        let high =
            Range { rights: Rights { execute: false, ..RWXU }, ..range(0xffe0_0000, 0xffff_ffff, 0x1_0000_0000) };
        let expected =
            [range(0, 0x1f_ffff, 0), Range { rights: kernel, ..range(0x20_0000, 0x20_0fff, 0x20_0000) }, high];
        assert_eq!((map.levels, &map.ranges[..]), (3, &expected[..]));
    }

    #[test]
    fn tables_of_32_bits_have_large_pages_if_cr4_allows() {
        let pair = |low: u64, high: u64| low | high << 32;
        let tables: Tables = &[
            // 4 MiB at 0xff_c000_0000 by bits 20-13, then a table.
            (0x1000, &[(0, pair(0xc000_0000 | 0xff << 13 | LARGE | ALL, 0x2000 | ALL)), (511, pair(0, 0x2000 | ALL))]),
            (0x2000, &[(0, pair(0x5000 | ALL, 0x6000 | ALL))]),
        ];
        let registers = Registers { cr0: CR0_PG, cr3: 0x1018, cr4: CR4_PSE, efer: 0 };
        let map = walk_tables(&registers, tables);
        let expected =
            [Range { linear: false, ..range(0, 0x40_1fff, 0xff_c000_0000) }, range(0xffc0_0000, 0xffc0_1fff, 0x5000)];
        assert_eq!((map.levels, &map.ranges[..]), (2, &expected[..]));
        let without = walk_tables(&Registers { cr4: 0, ..registers }, tables);
        assert_eq!((without.ranges.len(), without.unreadable), (2, 1));
    }

    #[test]
    fn a_recursive_entry_is_one_range() {
        let map = walk_tables(
            &LONG_MODE,
            &[(0x1000, &[(511, 0x2000 | ALL)]), (0x2000, &[(511, 0x3000 | ALL)]), (0x3000, &[(507, 0x3000 | ALL)])],
        );
        let expected = range(0xffff_ffff_ff60_0000, 0xffff_ffff_ff7f_ffff, 0x3000);
        assert_eq!(map.ranges, [Range { linear: false, recursive: true, ..expected }]);
    }

    #[test]
    fn hostile_tables_end_the_walk() {
        // Each table's entries all lead to one table of the next level: 512^4 pages of alternating rights.
        let endless = walk(&LONG_MODE, |table, entries| {
            for (index, entry) in entries.iter_mut().enumerate() {
                *entry = (table + 0x1000) | PRESENT | if index % 2 == 0 { WRITABLE } else { 0 };
            }
            true
        });
        let endless = endless.unwrap();
        assert_eq!(endless.ranges.len(), MAX_RANGES);
        assert!(endless.stopped_at.is_some());
        // The same without a page at its end: nothing to return, and a lot to read.
        let mut tables = 0;
        let empty = walk(&LONG_MODE, |table, entries| {
            tables += 1;
            entries.fill(if table < 0x4000 { (table + 0x1000) | ALL } else { 0 });
            true
        });
        assert_eq!((tables, empty.unwrap().ranges.len()), (MAX_TABLES, 0));
    }

    #[test]
    fn tables_outside_memory_are_counted() {
        let map = walk_tables(&LONG_MODE, &[(0x1000, &[(0, 0xf_0000_0000 | ALL), (1, 0xf_0000_1000 | ALL)])]);
        assert_eq!((map.unreadable, map.ranges.len()), (2, 0));
    }

    #[test]
    fn without_paging_there_is_no_map() {
        let read = |_, _: &mut [u64; TABLE_ENTRIES]| true;
        assert_eq!(walk(&Registers { cr0: 1, ..LONG_MODE }, read), Err(NoMap::PagingOff));
    }
}
