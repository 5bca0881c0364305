//! The state in which the boot processor enters a kernel, and the tables in guest memory that this state refers to.
//!
//! Sources: Documentation/arch/x86/boot.rst in Linux ("64-bit Boot Protocol"); Multiboot Specification 0.6.96, section
//! 3.2 ("Machine state"); Xen, docs/misc/pvh.pandoc ("x86/HVM direct boot ABI"); Intel SDM volume 3, sections 2.5
//! (control registers), 3.4.5 (segment descriptors) and 4.5 (4-level paging).

/// A segment register with its hidden part, as the descriptor that it was loaded from would give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "these are the bits of a descriptor")]
pub struct Segment {
    /// First linear address.
    pub base: u64,
    /// Highest offset in bytes, whatever the granularity.
    pub limit: u32,
    /// Byte offset of the descriptor in the GDT; the requested privilege level is 0.
    pub selector: u16,
    /// Type, 4 bits.
    pub type_: u8,
    /// The segment is present.
    pub present: bool,
    /// Descriptor privilege level, 0 to 3.
    pub dpl: u8,
    /// Default operand size is 32 bits.
    pub db: bool,
    /// Code or data, not a system segment.
    pub s: bool,
    /// 64-bit code.
    pub l: bool,
    /// The descriptor counts the limit in units of 4 KiB.
    pub g: bool,
    /// Available to software.
    pub avl: bool,
}

impl Segment {
    /// The 8-byte descriptor (SDM volume 3, figure 3-8). It has room for the low 32 bits of the base only.
    pub const fn descriptor(&self) -> u64 {
        let limit = (if self.g { self.limit >> 12 } else { self.limit }) as u64;
        let access = (self.type_ & 0xf) as u64
            | (self.s as u64) << 4
            | ((self.dpl & 3) as u64) << 5
            | (self.present as u64) << 7;
        let flags = self.avl as u64 | (self.l as u64) << 1 | (self.db as u64) << 2 | (self.g as u64) << 3;
        (limit & 0xffff)
            | (self.base & 0x00ff_ffff) << 16
            | access << 40
            | (limit >> 16 & 0xf) << 48
            | flags << 52
            | (self.base >> 24 & 0xff) << 56
    }
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRegister {
    /// Linear address of the table.
    pub base: u64,
    /// Size of the table in bytes, less one.
    pub limit: u16,
}

/// What the boot processor's registers hold at the first instruction. General registers not named here are zero; the
/// local descriptor table keeps its reset state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootCpu {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// RAX, where Multiboot passes its magic number.
    pub rax: u64,
    /// RBX, where Multiboot and PVH pass the address of their structure.
    pub rbx: u64,
    /// RSI, where the Linux protocol passes the zero page.
    pub rsi: u64,
    /// Flags.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// The extended feature enable register (MSR `0xc000_0080`).
    pub efer: u64,
    /// CS.
    pub code: Segment,
    /// DS, ES, FS, GS and SS alike.
    pub data: Segment,
    /// The task register.
    pub task: Segment,
    /// The GDT register.
    pub gdt: TableRegister,
    /// The IDT register.
    pub idt: TableRegister,
}

/// Guest physical addresses of the tables that [`linux64`] refers to. The page tables take one aligned page each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Global descriptor table, 32 bytes.
    pub gdt: u64,
    /// Interrupt descriptor table, 8 bytes.
    pub idt: u64,
    /// Top-level page table.
    pub pml4: u64,
    /// Page-directory-pointer table.
    pub pdpte: u64,
    /// Page directory.
    pub pde: u64,
}

impl Tables {
    /// The contents of every table, each with its address: descriptors for [`linux64`] and page tables that map the
    /// first GiB of linear addresses to itself in pages of 2 MiB.
    pub fn contents(&self) -> [(u64, Vec<u8>); 5] {
        let directory: Vec<u64> = (0..PAGE_TABLE_ENTRIES).map(|page| page << LARGE_PAGE_SHIFT | PAGE_LEAF).collect();
        [
            (self.gdt, words(&GDT)),
            // An IDT without a valid gate: an exception before the kernel has its own becomes a triple fault.
            (self.idt, words(&[0])),
            (self.pml4, words(&[self.pdpte | PAGE_TABLE])),
            (self.pdpte, words(&[self.pde | PAGE_TABLE])),
            (self.pde, words(&directory)),
        ]
    }
}

/// The state for the 64-bit entry of Linux: long mode with paging on, flat segments, interrupts off.
///
/// `entry` is the first instruction's linear address, `zero_page` the address of `struct boot_params` and `stack` the
/// initial stack pointer, all in the first GiB.
pub const fn linux64(entry: u64, zero_page: u64, stack: u64, tables: &Tables) -> BootCpu {
    BootCpu {
        rip: entry,
        rsp: stack,
        rax: 0,
        rbx: 0,
        rsi: zero_page,
        rflags: RFLAGS_RESERVED,
        cr0: CR0_PE | CR0_ET | CR0_PG,
        cr3: tables.pml4,
        cr4: CR4_PAE,
        efer: EFER_LME | EFER_LMA,
        code: CODE64,
        data: DATA,
        task: TSS64,
        gdt: TableRegister { base: tables.gdt, limit: (GDT.len() * 8 - 1) as u16 },
        idt: TableRegister { base: tables.idt, limit: 7 },
    }
}

/// The state for the entries of Multiboot and PVH: protected mode without paging, flat segments, interrupts off.
///
/// `entry` is the first instruction's address, `eax` and `ebx` what the protocol passes, and `gdt` the address of
/// [`flat32_gdt`]. Neither protocol promises a table behind the segments or a stack; the table is there for kernels
/// that load a segment register before they have one of their own.
pub const fn protected32(entry: u32, eax: u32, ebx: u32, gdt: u64) -> BootCpu {
    BootCpu {
        rip: entry as u64,
        rsp: 0,
        rax: eax as u64,
        rbx: ebx as u64,
        rsi: 0,
        rflags: RFLAGS_RESERVED,
        cr0: CR0_PE | CR0_ET,
        cr3: 0,
        cr4: 0,
        efer: 0,
        code: CODE32,
        data: DATA32,
        task: TSS32,
        gdt: TableRegister { base: gdt, limit: (GDT32.len() * 8 - 1) as u16 },
        idt: TableRegister { base: 0, limit: 0 },
    }
}

/// The descriptor table of [`protected32`].
pub fn flat32_gdt() -> Vec<u8> {
    words(&GDT32)
}

/// Bit 1 of RFLAGS always reads as one; all else is zero, the interrupt flag too, as the protocol wants.
const RFLAGS_RESERVED: u64 = 1 << 1;
/// Protected mode.
const CR0_PE: u64 = 1 << 0;
/// Extension type, which processors since the P6 hardwire to one.
const CR0_ET: u64 = 1 << 4;
/// Paging.
const CR0_PG: u64 = 1 << 31;
/// Page-table entries of 8 bytes, which long mode requires.
const CR4_PAE: u64 = 1 << 5;
/// Long mode enabled.
const EFER_LME: u64 = 1 << 8;
/// Long mode active.
const EFER_LMA: u64 = 1 << 10;

/// An entry that points to the next table: present and writable.
const PAGE_TABLE: u64 = 0b11;
/// A page-directory entry that maps a page itself: present, writable, and page size (bit 7).
const PAGE_LEAF: u64 = 1 << 7 | 0b11;
/// Page-directory entries map 2 MiB each.
const LARGE_PAGE_SHIFT: u32 = 21;
/// A page holds 512 entries of 8 bytes.
const PAGE_TABLE_ENTRIES: u64 = 512;

/// The boot protocol wants its code descriptor at selector 0x10 (`__BOOT_CS`) and its data descriptor at 0x18
/// (`__BOOT_DS`), so the TSS takes 0x08.
const GDT: [u64; 4] = [0, TSS64.descriptor(), CODE64.descriptor(), DATA.descriptor()];

const CODE64: Segment = Segment {
    base: 0,
    limit: u32::MAX,
    selector: 0x10,
    // Execute, read, accessed.
    type_: 0b1011,
    present: true,
    dpl: 0,
    db: false,
    s: true,
    l: true,
    g: true,
    avl: false,
};

const DATA: Segment = Segment {
    selector: 0x18,
    // Read, write, accessed.
    type_: 0b0011,
    db: true,
    l: false,
    ..CODE64
};

/// Entering a guest in long mode takes a busy 64-bit TSS in TR (SDM volume 3, section 27.3.1.2). The kernel loads one
/// of its own before it needs any, so this one lies at address 0 and is never read.
const TSS64: Segment = Segment {
    base: 0,
    // The 104 bytes of a 64-bit TSS.
    limit: 0x67,
    selector: 0x08,
    // Busy 64-bit TSS.
    type_: 0b1011,
    present: true,
    dpl: 0,
    db: false,
    s: false,
    l: false,
    g: false,
    avl: false,
};

/// The selectors are those of QEMU's Multiboot loader, which is what small kernels are most often tried with.
const GDT32: [u64; 4] = [0, CODE32.descriptor(), DATA32.descriptor(), TSS32.descriptor()];

const CODE32: Segment = Segment { selector: 0x08, db: true, l: false, ..CODE64 };

const DATA32: Segment = Segment { selector: 0x10, ..DATA };

/// A busy 32-bit TSS of the least size, at address 0 and never read: entering a guest takes one in TR.
const TSS32: Segment = Segment { selector: 0x18, ..TSS64 };

fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: Tables = Tables { gdt: 0x500, idt: 0x520, pml4: 0x9000, pdpte: 0xa000, pde: 0xb000 };

    /// Translates a linear address as a processor with these registers would, by walking `TABLES.contents()`.
    fn translate(cpu: &BootCpu, linear: u64) -> Option<u64> {
        let memory = TABLES.contents();
        let entry = |table: u64, index: u64| {
            let (_, bytes) = memory.iter().find(|(base, _)| *base == table)?;
            let at = usize::try_from(index * 8).ok()?;
            let entry = bytes.get(at..at + 8).map_or(0, |entry| u64::from_le_bytes(entry.try_into().unwrap()));
            (entry & 1 == 1).then_some(entry)
        };
        let pdpte = entry(cpu.cr3, linear >> 39 & 0x1ff)? & !0xfff;
        let pde = entry(pdpte, linear >> 30 & 0x1ff)? & !0xfff;
        let leaf = entry(pde, linear >> 21 & 0x1ff)?;
        assert_eq!(leaf & 0x80, 0x80, "the third level maps large pages");
        Some((leaf & !0x1f_ffff) | (linear & 0x1f_ffff))
    }

    #[test]
    fn the_first_gib_maps_to_itself_and_nothing_else_is_mapped() {
        let cpu = linux64(0x10_0200, 0x7000, 0x8ff0, &TABLES);
        for linear in [0, 0x7000, 0x10_0200, 0x1f_ffff, 0x20_0000, 0x3fff_ffff] {
            assert_eq!(translate(&cpu, linear), Some(linear));
        }
        for linear in [0x4000_0000, 0x80_0000_0000] {
            assert_eq!(translate(&cpu, linear), None);
        }
    }

    #[test]
    fn selectors_name_the_descriptors_that_the_boot_protocol_wants() {
        let cpu = linux64(0x10_0200, 0x7000, 0x8ff0, &TABLES);
        assert_eq!((cpu.code.selector, cpu.data.selector), (0x10, 0x18));
        assert_eq!((cpu.gdt, cpu.idt.base), (TableRegister { base: 0x500, limit: 31 }, 0x520));
        let [(gdt_at, gdt), (_, idt), ..] = TABLES.contents();
        assert_eq!((gdt_at, gdt.len(), idt.len()), (0x500, 32, 8));
        for segment in [cpu.code, cpu.data, cpu.task] {
            let at = usize::from(segment.selector);
            assert_eq!(gdt[at..at + 8], segment.descriptor().to_le_bytes());
        }
        assert_eq!(gdt[..8], [0; 8]);
    }

    #[test]
    fn descriptors_are_the_flat_ones_of_the_manual() {
        assert_eq!(CODE64.descriptor(), 0x00af_9b00_0000_ffff);
        assert_eq!(DATA.descriptor(), 0x00cf_9300_0000_ffff);
        assert_eq!(TSS64.descriptor(), 0x0000_8b00_0000_0067);
        let scattered = Segment { base: 0x1234_5678, limit: 0xa_bcde, dpl: 3, avl: true, ..TSS64 };
        assert_eq!(scattered.descriptor(), 0x121a_eb34_5678_bcde);
    }

    #[test]
    fn registers_are_those_of_long_mode() {
        let cpu = linux64(0x10_0200, 0x7000, 0x8ff0, &TABLES);
        assert_eq!((cpu.rip, cpu.rsi, cpu.rsp), (0x10_0200, 0x7000, 0x8ff0));
        assert_eq!((cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer), (0x8000_0011, 0x9000, 0x20, 0x500));
        assert_eq!(cpu.rflags, 2);
    }

    #[test]
    fn the_32_bit_entry_is_flat_unpaged_protected_mode() {
        let cpu = protected32(0x10_0000, 0x2BAD_B002, 0x8_0020, 0x8_0000);
        assert_eq!((cpu.rip, cpu.rax, cpu.rbx), (0x10_0000, 0x2BAD_B002, 0x8_0020));
        assert_eq!((cpu.cr0, cpu.cr3, cpu.cr4, cpu.efer, cpu.rflags), (0x11, 0, 0, 0, 2));
        assert_eq!(cpu.gdt, TableRegister { base: 0x8_0000, limit: 31 });
        assert_eq!(CODE32.descriptor(), 0x00cf_9b00_0000_ffff);
        assert_eq!(DATA32.descriptor(), 0x00cf_9300_0000_ffff);
        for segment in [cpu.code, cpu.data, cpu.task] {
            let at = usize::from(segment.selector);
            assert_eq!(flat32_gdt()[at..at + 8], segment.descriptor().to_le_bytes());
        }
    }
}
