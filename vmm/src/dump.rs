//! `--dump-map-on-exit`: what lies where in a guest, physically and virtually, as it is now.
//!
//! It reads the guest's memory without its help, so it works on a guest that hangs; while one runs, its tables may change
//! under the walk.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use carpel_arch::map::{Address, Arch, Bytes, Extent, MemoryMap};
use carpel_arch::x86_64::paging::{self, Range, Registers, TABLE_ENTRIES, VirtualMap};
use carpel_arch::{Device, VirtualMapRegisters};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// So many different virtual maps are shown: vCPUs of one kernel share one, or have one for each of a few programs.
const MAX_MAPS: usize = 8;
/// So many claims are named for one virtual range; where there are more, their regions are.
const MAX_NAMES: usize = 4;

/// Size of a page of the host's in bytes.
const PAGE_SIZE: u64 = 4096;
/// Bytes of an entry of /proc/self/pagemap; its bits 63 and 62 tell that the page is in memory or in swap
/// (Linux, Documentation/admin-guide/mm/pagemap.rst).
const PAGEMAP_ENTRY: u64 = 8;
const IN_USE: u64 = 0b11 << 62;
/// Entries that are read at once.
const PAGEMAP_CHUNK: usize = 8192;

/// What is needed to look at a guest from outside. It must not outlive the guest's memory.
pub struct View {
    /// The guest physical map.
    pub map: MemoryMap,
    /// The devices in it.
    pub devices: Vec<Device>,
    /// The guest's memory.
    pub memory: GuestMemoryMmap,
}

impl View {
    /// The guest's maps as text. `vcpus` are the vCPUs' registers, as far as they are known.
    pub fn describe(&self, vcpus: &[Option<VirtualMapRegisters>]) -> String {
        let mut text = format!("Guest physical map: {}\n", self.map);
        // Writing to a String cannot fail.
        for region in self.map.ram() {
            let used = self.used(region).map_or("an unknown part".into(), |used| Bytes(used).to_string());
            let _ = writeln!(text, "used of {}: {used}", region.name);
        }
        for device in &self.devices {
            let _ = writeln!(text, "device: {} at {}", device.name, device.place);
        }
        if self.map.arch != Arch::X86_64 {
            let _ = writeln!(text, "\nThe virtual map of an {} guest cannot be read yet", self.map.arch);
            return text;
        }
        let maps = group(vcpus);
        for (registers, ids) in maps.iter().take(MAX_MAPS) {
            let map = self.describe_virtual(registers.as_ref());
            let _ = writeln!(text, "\nVirtual map of vCPU {}: {}", join(ids), map.trim_end());
        }
        if maps.len() > MAX_MAPS {
            let _ = writeln!(text, "\n{} more vCPUs have other maps", maps.len() - MAX_MAPS);
        }
        text
    }

    fn describe_virtual(&self, registers: Option<&VirtualMapRegisters>) -> String {
        let Some(VirtualMapRegisters::X86_64(registers)) = registers else {
            return "its registers are not known".into();
        };
        match paging::walk(registers, |table, entries| self.read_table(table, entries)) {
            Ok(map) => self.table(registers, &map),
            Err(reason) => format!("{reason} (CR0 {:#x}, EFER {:#x})", registers.cr0, registers.efer),
        }
    }

    fn table(&self, registers: &Registers, map: &VirtualMap) -> String {
        let mut text = format!("{} levels, CR3 {}\n", map.levels, Address(registers.cr3));
        let rows: Vec<_> = map.ranges.iter().map(|range| self.row(range)).collect();
        let widths = [0, 1, 2, 4].map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
        for [start, end, size, rights, physical, names] in &rows {
            let line = format!(
                "{start:>0$}  {end:>1$}  {size:>2$}  {rights}  {physical:>3$}  {names}",
                widths[0], widths[1], widths[2], widths[3]
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        if let Some(address) = map.stopped_at {
            let _ = writeln!(text, "There is more from {} on, which is not shown", Address(address));
        }
        if map.unreadable > 0 {
            let _ = writeln!(text, "{} tables are not in memory", map.unreadable);
        }
        text
    }

    /// Start, end, size, rights, physical address, names.
    fn row(&self, range: &Range) -> [String; 6] {
        // Only the last byte of all has no address behind it.
        let end = range.last.checked_add(1);
        let size = (range.last - range.start).saturating_add(1);
        let flag = |set, name| if set { name } else { '-' };
        let rights = range.rights;
        let physical = match range {
            Range { recursive: true, .. } => String::new(),
            Range { linear: true, physical, .. } => Address(*physical).to_string(),
            Range { physical, .. } => format!("{} ...", Address(*physical)),
        };
        let mut names = vec![virtual_name(range).to_owned()];
        if range.linear {
            names.extend(self.physical_names(range.physical, size));
        }
        names.retain(|name| !name.is_empty());
        [
            Address(range.start).to_string(),
            end.map_or("2^64".into(), |end| Address(end).to_string()),
            Bytes(size).to_string(),
            ['r', flag(rights.write, 'w'), flag(rights.execute, 'x'), flag(rights.user, 'u')].iter().collect(),
            physical,
            names.join(", "),
        ]
    }

    /// What is at these guest physical addresses: claims, or regions where there are too many or no claims.
    fn physical_names(&self, start: u64, size: u64) -> Vec<String> {
        let end = start.saturating_add(size);
        let named = |extents: &[Extent]| -> Vec<String> {
            let inside = extents.iter().filter(|extent| extent.start < end && start < extent.end);
            inside.map(|extent| extent.label().to_owned()).collect()
        };
        let claims = named(&self.map.claims);
        if (1..=MAX_NAMES).contains(&claims.len()) { claims } else { named(&self.map.regions) }
    }

    fn read_table(&self, address: u64, entries: &mut [u64; TABLE_ENTRIES]) -> bool {
        let mut bytes = [0; TABLE_ENTRIES * 8];
        if self.memory.read_slice(&mut bytes, GuestAddress(address)).is_err() {
            return false;
        }
        for (entry, bytes) in entries.iter_mut().zip(bytes.as_chunks().0) {
            *entry = u64::from_le_bytes(*bytes);
        }
        true
    }

    /// How many bytes of the region the host has given the guest; none where it does not tell.
    fn used(&self, region: &Extent) -> Option<u64> {
        let host = self.memory.get_host_address(GuestAddress(region.start)).ok()?;
        count_used(host as u64, region.size()).inspect_err(|error| log::debug!("Cannot read pagemap: {error}")).ok()
    }
}

fn count_used(start: u64, size: u64) -> io::Result<u64> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let (mut page, end) = (start / PAGE_SIZE, (start + size) / PAGE_SIZE);
    let mut used = 0;
    let mut chunk = vec![0; PAGEMAP_CHUNK * PAGEMAP_ENTRY as usize];
    while page < end {
        let count = (end - page).min(PAGEMAP_CHUNK as u64);
        let bytes = &mut chunk[..(count * PAGEMAP_ENTRY) as usize];
        pagemap.read_exact_at(bytes, page * PAGEMAP_ENTRY)?;
        let entries = bytes.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry));
        used += entries.filter(|entry| entry & IN_USE != 0).count() as u64 * PAGE_SIZE;
        page += count;
    }
    Ok(used)
}

/// What such addresses commonly are for, in kernels that live in the upper half.
fn virtual_name(range: &Range) -> &'static str {
    const UPPER_HALF: u64 = 1 << 63;
    const MINUS_2_GIB: u64 = 0xFFFF_FFFF_8000_0000;
    const MINUS_1_GIB: u64 = 0xFFFF_FFFF_C000_0000;
    const GIB: u64 = 1 << 30;
    match range {
        Range { recursive: true, .. } => "page tables (recursive)",
        Range { linear: true, start, physical, .. } if start == physical => "identity",
        Range { start: MINUS_1_GIB.., .. } => "last GiB",
        Range { start: MINUS_2_GIB.., .. } => "kernel at -2 GiB",
        Range { linear: true, start, physical, .. }
            if *start >= UPPER_HALF && start.wrapping_sub(*physical).is_multiple_of(GIB) =>
        {
            "direct map"
        }
        Range { start: UPPER_HALF.., .. } => "kernel",
        Range { rights, .. } if rights.user => "user",
        Range { .. } => "",
    }
}

/// The vCPUs of each virtual map, in the order of the first of each.
fn group(vcpus: &[Option<VirtualMapRegisters>]) -> Vec<(Option<VirtualMapRegisters>, Vec<usize>)> {
    let mut groups: Vec<(Option<VirtualMapRegisters>, Vec<usize>)> = Vec::new();
    for (id, registers) in vcpus.iter().enumerate() {
        match groups.iter_mut().find(|(group, _)| group == registers) {
            Some((_, ids)) => ids.push(id),
            None => groups.push((*registers, vec![id])),
        }
    }
    groups
}

fn join(ids: &[usize]) -> String {
    ids.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use carpel_arch::x86_64::boot::Tables;
    use carpel_arch::{Inputs, RowName, resolve, x86_64::maps::KRUN};

    const LONG_MODE: Registers = Registers { cr0: 1 << 31, cr3: 0x9000, cr4: 0, efer: 1 << 10 };

    const fn x86(registers: Registers) -> VirtualMapRegisters {
        VirtualMapRegisters::X86_64(registers)
    }

    fn view() -> View {
        let map = resolve(&KRUN, &Inputs::new(Arch::X86_64, 64 << 20)).unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
        View { map, devices: Vec::new(), memory }
    }

    #[test]
    fn the_boot_protocols_map_is_an_identity() {
        let view = view();
        let tables = Tables { gdt: 0x500, idt: 0x520, pml4: 0x9000, pdpte: 0xa000, pde: 0xb000 };
        for (address, bytes) in tables.contents() {
            view.memory.write_slice(&bytes, GuestAddress(address)).unwrap();
        }
        let text = view.describe(&[Some(x86(LONG_MODE)), None, Some(x86(LONG_MODE))]);
        assert!(text.contains("\nVirtual map of vCPU 0, 2: 4 levels, CR3 0x9000\n"), "{text}");
        assert!(text.contains("\n0x0  0x4000_0000  1 GiB  rwx-  0x0  identity, low_ram\n"), "{text}");
        assert!(text.contains("\nVirtual map of vCPU 1: its registers are not known\n"), "{text}");
    }

    #[test]
    fn tables_that_lead_out_of_memory_are_said_to() {
        let view = view();
        view.memory.write_obj(0xf000_0000_0003_u64, GuestAddress(0x9000)).unwrap();
        let text = view.describe(&[Some(x86(LONG_MODE)), Some(x86(Registers { cr0: 0, ..LONG_MODE }))]);
        assert!(text.contains("\n1 tables are not in memory\n"), "{text}");
        assert!(text.contains("\nVirtual map of vCPU 1: Paging is off (CR0 0x0, EFER 0x400)\n"), "{text}");
    }

    #[test]
    fn memory_counts_as_used_once_it_is_touched() {
        let view = view();
        let region = view.map.region(RowName::LowRam).unwrap();
        let before = view.used(region).unwrap();
        view.memory.write_obj(1_u8, GuestAddress(0x200_0000)).unwrap();
        assert!(view.used(region).unwrap() > before);
    }
}
