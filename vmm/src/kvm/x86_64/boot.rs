//! What a boot loader and firmware would leave in memory for a kernel, and the state that it is entered in.

use carpel_arch::map::{Boot, Extent, MemoryMap, MissingRow, RowName};
use carpel_arch::x86_64::acpi;
use carpel_arch::x86_64::boot::{BootCpu, Tables, flat32_gdt, linux64, protected32};
use carpel_arch::x86_64::maps::e820;
use carpel_arch::x86_64::mptable;
use carpel_arch::x86_64::multiboot::{self, Info, Module};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::kvm::KvmError;
use crate::loader::{pvh, zero_page};
use crate::plan::Plan;
use crate::platform;

/// Where crosvm's layout has a kernel's first stack end: the register's value, for which nothing is set aside.
const STACK_WITHOUT_CLAIM: u64 = 0x8000;
/// How far below the end of its claim a kernel's first stack starts: room for a return address, 16-byte aligned.
const STACK_MARGIN: u64 = 16;
/// The MP floating pointer's size in bytes; the configuration table follows it.
const MP_POINTER: u64 = 16;

/// The state of the boot processor; none for firmware, which starts in the one after a reset.
pub struct Entry(pub Option<BootCpu>);

/// Writes the structures and returns the boot processor's state.
pub fn write_boot_structures(plan: &Plan, memory: &GuestMemoryMmap) -> Result<Entry, KvmError> {
    if plan.kernel.boot == Boot::Firmware {
        return Ok(Entry(None));
    }
    let writer = Writer { map: &plan.map, memory };
    writer.write("ACPI tables", writer.start(RowName::Acpi)?, &acpi_tables(plan)?)?;
    let (lapic, ioapic) = (writer.start(RowName::Lapic)?, writer.start(RowName::IoApic)?);
    let mp = writer.start(RowName::MpTable)?;
    let mp_table = mptable::build(mp as u32, plan.vcpus as u8, lapic as u32, ioapic as u32);
    writer.write("MP table", mp, &mp_table)?;
    writer.write("MP pointer", writer.start(RowName::Ebda)?, &mptable::floating_pointer((mp + MP_POINTER) as u32))?;

    let kernel_start = writer.start(RowName::Kernel)?;
    let entry = plan.kernel.entry.resolve(kernel_start).unwrap_or(kernel_start);
    let state = match plan.kernel.boot {
        Boot::Multiboot => {
            let info = writer.boot_info("Multiboot information", |base| Ok(multiboot_info(base, plan)))?;
            protected32(entry as u32, multiboot::BOOTLOADER_MAGIC, info, writer.start(RowName::BootInfo)?)
        }
        Boot::Pvh => {
            let info = writer.boot_info("PVH start information", |base| pvh::build(base, &plan.map, &plan.cmdline))?;
            protected32(entry as u32, 0, info, writer.start(RowName::BootInfo)?)
        }
        Boot::Linux | Boot::Firmware => linux(plan, &writer, entry)?,
    };
    Ok(Entry(Some(state)))
}

/// Guest memory, written to where the map says.
struct Writer<'a> {
    map: &'a MemoryMap,
    memory: &'a GuestMemoryMmap,
}

impl Writer<'_> {
    fn start(&self, claim: RowName) -> Result<u64, MissingRow> {
        Ok(self.map.need_claim(claim)?.start)
    }

    fn write(&self, what: &'static str, address: u64, bytes: &[u8]) -> Result<(), KvmError> {
        self.memory.write_slice(bytes, GuestAddress(address)).map_err(|source| KvmError::Write { what, source })
    }

    /// Writes what a 32-bit entry needs to its claim, first the descriptor table, then what `build` makes of the address
    /// behind it. Returns that address.
    fn boot_info(
        &self,
        what: &'static str,
        build: impl FnOnce(u32) -> Result<Vec<u8>, MissingRow>,
    ) -> Result<u32, KvmError> {
        let &Extent { start, end, .. } = self.map.need_claim(RowName::BootInfo)?;
        let mut bytes = flat32_gdt();
        let address = start as u32 + bytes.len() as u32;
        bytes.extend(build(address)?);
        if bytes.len() as u64 > end - start {
            return Err(KvmError::Boot(format!("the {what} does not fit {start:#x}-{end:#x}: {} bytes", bytes.len())));
        }
        self.write(what, start, &bytes)?;
        Ok(address)
    }
}

/// The 64-bit entry of Linux.
fn linux(plan: &Plan, writer: &Writer, entry: u64) -> Result<BootCpu, KvmError> {
    let tables = Tables {
        gdt: writer.start(RowName::Gdt)?,
        idt: writer.start(RowName::Idt)?,
        pml4: writer.start(RowName::Pml4)?,
        pdpte: writer.start(RowName::Pdpte)?,
        pde: writer.start(RowName::Pde)?,
    };
    for (address, bytes) in tables.contents() {
        writer.write("descriptor and page tables", address, &bytes)?;
    }
    let zero_page = writer.start(RowName::ZeroPage)?;
    writer.write("zero page", zero_page, &zero_page::build(&plan.map, &plan.kernel, plan.cmdline.len())?)?;
    let mut cmdline = plan.cmdline.clone().into_bytes();
    cmdline.push(0);
    writer.write("command line", writer.start(RowName::Cmdline)?, &cmdline)?;
    Ok(linux64(entry, zero_page, stack(&plan.map), &tables))
}

fn multiboot_info(base: u32, plan: &Plan) -> Vec<u8> {
    let module = |initrd: &Extent| Module { start: initrd.start as u32, end: initrd.end as u32, name: &plan.module };
    let modules: Vec<_> = plan.map.claim(RowName::Initrd).map(module).into_iter().collect();
    let info = Info { cmdline: &plan.cmdline, modules: &modules, memory: &e820(&plan.map) };
    multiboot::build(base, &info)
}

fn stack(map: &MemoryMap) -> u64 {
    map.claim(RowName::BootStack).map_or(STACK_WITHOUT_CLAIM, |claim| claim.end - STACK_MARGIN)
}

fn acpi_tables(plan: &Plan) -> Result<Vec<u8>, KvmError> {
    let &Extent { start, end, .. } = plan.map.need_claim(RowName::Acpi)?;
    acpi::build(start, end, &platform::acpi(plan)?).map_err(|error| KvmError::Boot(error.to_string()))
}
