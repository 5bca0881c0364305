//! What a boot loader and firmware would leave in memory for an x86-64 kernel, and the state that it is entered in.

use carpel_arch::map::{Boot, MemoryMap, MissingRow, RowName};
use carpel_arch::x86_64::acpi::{self, Platform};
use carpel_arch::x86_64::boot::{BootCpu, Tables, flat32_gdt, linux64, protected32};
use carpel_arch::x86_64::maps::e820;
use carpel_arch::x86_64::mptable;
use carpel_arch::x86_64::multiboot::{self, Info, Module};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::{BootError, pvh, zero_page};
use crate::config::IrqchipMode;
use crate::plan::Plan;

/// Where crosvm's layout has a kernel's first stack end: the register's value, for which nothing is set aside.
const STACK_WITHOUT_CLAIM: u64 = 0x8000;
/// How far below the end of its claim a kernel's first stack starts: room for a return address, 16-byte aligned.
const STACK_MARGIN: u64 = 16;
/// The MP floating pointer's size in bytes; the configuration table follows it.
const MP_POINTER: u64 = 16;

/// Writes the structures and returns the boot processor's state; none for firmware, which starts in the one after a reset.
pub fn write(plan: &Plan, memory: &GuestMemoryMmap) -> Result<Option<BootCpu>, BootError> {
    if plan.kernel.boot == Boot::Firmware {
        return Ok(None);
    }
    let writer = Writer { map: &plan.map, memory };
    let acpi_place = plan.map.need_claim(RowName::Acpi)?;
    writer.write("ACPI tables", RowName::Acpi, &acpi::build(acpi_place.start, acpi_place.end, &platform(plan)?)?)?;
    let (lapic, ioapic) = (writer.start(RowName::Lapic)?, writer.start(RowName::IoApic)?);
    let mp = writer.start(RowName::MpTable)?;
    let mp_table = mptable::build(mp as u32, plan.vcpus as u8, lapic as u32, ioapic as u32);
    writer.write("MP table", RowName::MpTable, &mp_table)?;
    writer.write("MP pointer", RowName::Ebda, &mptable::floating_pointer((mp + MP_POINTER) as u32))?;

    let entry = super::entry(plan, writer.start(RowName::Kernel)?)?;
    Ok(Some(match plan.kernel.boot {
        Boot::Multiboot => {
            let (gdt, info) = writer.boot_info("Multiboot information", |base| Ok(multiboot_info(base, plan)))?;
            protected32(reach(entry)?, multiboot::BOOTLOADER_MAGIC, info, gdt)
        }
        Boot::Pvh => {
            let build = |base| pvh::build(base, &plan.map, &plan.cmdline);
            let (gdt, info) = writer.boot_info("PVH start information", build)?;
            protected32(reach(entry)?, 0, info, gdt)
        }
        Boot::Linux | Boot::Firmware => linux(plan, &writer, entry)?,
    }))
}

/// What ACPI tells of the machine.
pub fn platform(plan: &Plan) -> Result<Platform<'_>, MissingRow> {
    let start = |name| plan.map.need_claim(name).map(|claim| claim.start as u32);
    Ok(Platform {
        cpus: plan.vcpus as u8,
        lapic: start(RowName::Lapic)?,
        ioapic: start(RowName::IoApic)?,
        pic: plan.irqchip == IrqchipMode::Full,
        devices: plan.devices_in_tables(),
    })
}

/// An entry for 32-bit code.
fn reach(entry: u64) -> Result<u32, BootError> {
    u32::try_from(entry).map_err(|_| BootError::Entry { start: entry })
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

    fn write(&self, what: &'static str, claim: RowName, bytes: &[u8]) -> Result<(), BootError> {
        super::write(self.memory, what, self.map.need_claim(claim)?, bytes)
    }

    /// Writes what a 32-bit entry needs to its claim, first the descriptor table, then what `build` makes of the address
    /// behind it. Returns both addresses.
    fn boot_info(
        &self,
        what: &'static str,
        build: impl FnOnce(u32) -> Result<Vec<u8>, MissingRow>,
    ) -> Result<(u64, u32), BootError> {
        let start = self.start(RowName::BootInfo)?;
        let mut bytes = flat32_gdt();
        let address = start as u32 + bytes.len() as u32;
        bytes.extend(build(address)?);
        self.write(what, RowName::BootInfo, &bytes)?;
        Ok((start, address))
    }
}

/// The 64-bit entry of Linux.
fn linux(plan: &Plan, writer: &Writer, entry: u64) -> Result<BootCpu, BootError> {
    let tables = Tables {
        gdt: writer.start(RowName::Gdt)?,
        idt: writer.start(RowName::Idt)?,
        pml4: writer.start(RowName::Pml4)?,
        pdpte: writer.start(RowName::Pdpte)?,
        pde: writer.start(RowName::Pde)?,
    };
    for (address, bytes) in tables.contents() {
        let write = writer.memory.write_slice(&bytes, GuestAddress(address));
        write.map_err(|source| BootError::Write { what: "descriptor and page tables", source })?;
    }
    let zero_page = zero_page::build(&plan.map, &plan.kernel, plan.cmdline.len())?;
    writer.write("zero page", RowName::ZeroPage, &zero_page)?;
    let mut cmdline = plan.cmdline.clone().into_bytes();
    cmdline.push(0);
    writer.write("command line", RowName::Cmdline, &cmdline)?;
    Ok(linux64(entry, writer.start(RowName::ZeroPage)?, stack(&plan.map), &tables))
}

fn multiboot_info(base: u32, plan: &Plan) -> Vec<u8> {
    let initrds = plan.map.claim(RowName::Initrd).map_or(0, |initrd| initrd.start);
    let modules = plan.modules.iter().map(|module| {
        let start = initrds + module.offset;
        Module { start: start as u32, end: (start + module.size) as u32, name: &module.name }
    });
    let modules: Vec<_> = modules.collect();
    let info = Info { cmdline: &plan.cmdline, modules: &modules, memory: &e820(&plan.map) };
    multiboot::build(base, &info)
}

fn stack(map: &MemoryMap) -> u64 {
    map.claim(RowName::BootStack).map_or(STACK_WITHOUT_CLAIM, |claim| claim.end - STACK_MARGIN)
}
