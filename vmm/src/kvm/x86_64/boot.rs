//! What a boot loader and firmware would leave in memory for a Linux kernel, and the state that it is entered in.

use carpel_arch::map::MemoryMap;
use carpel_arch::x86_64::acpi::{self, Platform, SerialPort};
use carpel_arch::x86_64::boot::{BootCpu, Tables, linux64};
use carpel_arch::x86_64::mptable;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::config::IrqchipMode;
use crate::kvm::KvmError;
use crate::loader::zero_page;
use crate::plan::Plan;
use crate::platform::{Device, Place};

/// Where crosvm's layout has a kernel's first stack end: the register's value, for which nothing is set aside.
const STACK_WITHOUT_CLAIM: u64 = 0x8000;
/// How far below the end of its claim a kernel's first stack starts: room for a return address, 16-byte aligned.
const STACK_MARGIN: u64 = 16;
/// The MP floating pointer's size in bytes; the configuration table follows it.
const MP_POINTER: u64 = 16;

/// Writes the structures and returns the boot processor's state.
pub fn write_boot_structures(plan: &Plan, memory: &GuestMemoryMmap) -> Result<BootCpu, KvmError> {
    let start = |name| plan.map.claim(name).map_or(0, |claim| claim.start);
    let write = |what, address, bytes: &[u8]| {
        memory.write_slice(bytes, GuestAddress(address)).map_err(|source| KvmError::Write { what, source })
    };
    let tables =
        Tables { gdt: start("gdt"), idt: start("idt"), pml4: start("pml4"), pdpte: start("pdpte"), pde: start("pde") };
    for (address, bytes) in tables.contents() {
        write("descriptor and page tables", address, &bytes)?;
    }
    write("zero page", start("zero_page"), &zero_page::build(&plan.map, &plan.kernel, plan.cmdline.len()))?;
    let mut cmdline = plan.cmdline.clone().into_bytes();
    cmdline.push(0);
    write("command line", start("cmdline"), &cmdline)?;

    write("ACPI tables", start("acpi"), &acpi_tables(plan)?)?;
    let (lapic, ioapic, mp) = (start("lapic") as u32, start("ioapic") as u32, start("mptable"));
    write("MP table", mp, &mptable::build(mp as u32, plan.vcpus as u8, lapic, ioapic))?;
    write("MP pointer", start("ebda"), &mptable::floating_pointer((mp + MP_POINTER) as u32))?;

    let kernel_start = start("kernel");
    let entry = plan.kernel.entry.resolve(kernel_start).unwrap_or(kernel_start);
    Ok(linux64(entry, start("zero_page"), stack(&plan.map), &tables))
}

fn stack(map: &MemoryMap) -> u64 {
    map.claim("boot_stack").map_or(STACK_WITHOUT_CLAIM, |claim| claim.end - STACK_MARGIN)
}

fn acpi_tables(plan: &Plan) -> Result<Vec<u8>, KvmError> {
    let start = |name| plan.map.claim(name).map_or(0, |claim| claim.start);
    let serial = plan.device(Device::Serial).and_then(|serial| match serial.place {
        Place::Ports(ref ports) => Some(SerialPort { port: ports.start, irq: serial.irq? as u8 }),
        Place::Mmio(_) => None,
    });
    let platform = Platform {
        cpus: plan.vcpus as u8,
        lapic: start("lapic") as u32,
        ioapic: start("ioapic") as u32,
        pic: plan.irqchip == IrqchipMode::Full,
        com: [serial, None, None, None],
        rtc: plan.device(Device::Cmos).is_some(),
        pvpanic: plan.device(Device::PvPanic).is_some(),
        virtio_mmio: Vec::new(),
    };
    let end = plan.map.claim("acpi").map_or(0, |claim| claim.end);
    acpi::build(start("acpi"), end, &platform).map_err(|error| KvmError::Boot(error.to_string()))
}
