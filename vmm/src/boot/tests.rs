//! Every architecture's boot structures, on every host: what a guest finds in its memory, and where.

use std::path::PathBuf;

use carpel_arch::map::{Arch, Boot, Layout, RowName};
use carpel_arch::x86_64::boot::BootCpu;
use carpel_arch::{Topology, aarch64, x86_64};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::{BootError, load};
use crate::config::Config;
use crate::loader::{Files, Kernel, Module, Ramdisk, Source, Target, firmware, samples};
use crate::plan::{HostFacts, Plan, Probe};

const MIB: u64 = 1 << 20;
const PC: [&Layout; 2] = [&x86_64::maps::KRUN, &x86_64::maps::CROSVM];
const ARM: [&Layout; 2] = [&aarch64::maps::CROSVM, &aarch64::maps::VIRT];
const INITRD: &[u8] = b"an initial RAM disk";

fn plan(layout: &'static Layout, kernel: Kernel, initrd: u64) -> Plan {
    let config = Config {
        arch: Some(layout.arch),
        layout: Some(layout.name.to_owned()),
        mem: 128 * MIB,
        cpus: Topology::new(2, None, None, None).unwrap(),
        kernel: Some(PathBuf::from("/boot/kernel")),
        initrd: vec![PathBuf::from("/boot/initrd")],
        append: if kernel.boot == Boot::Firmware { Vec::new() } else { vec!["quiet".into()] },
        ..Config::default()
    };
    let initrds = if initrd == 0 { vec![] } else { vec![Module { name: "initrd".into(), offset: 0, size: initrd }] };
    let host = HostFacts::assumed(layout.arch);
    Plan::new(&config, Probe { kernel: Some(kernel), handover: None, initrds, cmdline: None, host }).unwrap()
}

fn kernel(arch: Arch, image: &[u8], boot: Boot) -> Kernel {
    Kernel::probe(arch, &Source::from_bytes(image), Some(boot)).unwrap()
}

fn x86_plan(layout: &'static Layout, boot: Boot) -> Plan {
    let image = match boot {
        Boot::Linux => samples::bzimage(),
        Boot::Pvh => samples::pvh(&0x10_0000_u32.to_le_bytes(), 4),
        Boot::Multiboot => samples::multiboot(),
        Boot::Firmware => return plan(layout, firmware(Arch::X86_64, MIB).unwrap(), 0),
    };
    plan(layout, kernel(Arch::X86_64, &image, boot), INITRD.len() as u64)
}

fn memory(plan: &Plan) -> GuestMemoryMmap {
    let ranges: Vec<_> = plan.map.slots().iter().map(|slot| (slot.start, (slot.end - slot.start) as usize)).collect();
    let ranges: Vec<_> = ranges.into_iter().map(|(start, size)| (GuestAddress(start), size)).collect();
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

fn bytes<const N: usize>(memory: &GuestMemoryMmap, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

/// The first MiB.
fn low(memory: &GuestMemoryMmap) -> Vec<u8> {
    let mut low = vec![0; MIB as usize];
    memory.read_slice(&mut low, GuestAddress(0)).unwrap();
    low
}

fn start(plan: &Plan, row: RowName) -> u64 {
    plan.map.need_claim(row).unwrap().start
}

fn write(plan: &Plan) -> (BootCpu, GuestMemoryMmap) {
    let memory = memory(plan);
    let state = super::x86_64::write(plan, &memory).unwrap();
    (state.expect("a kernel is started in a state of its own"), memory)
}

#[test]
fn a_pc_has_its_tables_whatever_starts() {
    for layout in PC {
        for boot in [Boot::Linux, Boot::Pvh, Boot::Multiboot] {
            let plan = x86_plan(layout, boot);
            let (_, memory) = write(&plan);
            assert_eq!(&bytes(&memory, start(&plan, RowName::Acpi)), b"RSD PTR ");
            let table = start(&plan, RowName::MpTable);
            for pointer in [table, start(&plan, RowName::Ebda)] {
                assert_eq!(&bytes(&memory, pointer), b"_MP_");
                let target = u32::from_le_bytes(bytes(&memory, pointer + 4));
                assert_eq!(&bytes(&memory, target.into()), b"PCMP", "{} {boot:?}", layout.name);
            }
        }
    }
}

#[test]
fn nothing_is_written_outside_of_claims() {
    for layout in PC {
        for boot in [Boot::Linux, Boot::Pvh, Boot::Multiboot] {
            let plan = x86_plan(layout, boot);
            let (_, memory) = write(&plan);
            let mut low = low(&memory);
            for claim in plan.map.claims.iter().filter(|claim| claim.end <= MIB) {
                low[claim.start as usize..claim.end as usize].fill(0);
            }
            let stray = low.iter().position(|&byte| byte != 0);
            assert_eq!(stray, None, "{} {boot:?}", layout.name);
        }
    }
}

#[test]
fn linux_finds_its_zero_page_and_command_line() {
    for (layout, stack) in PC.into_iter().zip([0x8FF0, 0x8000]) {
        let plan = x86_plan(layout, Boot::Linux);
        let (cpu, memory) = write(&plan);
        assert_eq!((cpu.rip, cpu.rsp), (start(&plan, RowName::Kernel) + 0x200, stack));
        assert_eq!((cpu.rsi, cpu.cr3), (start(&plan, RowName::ZeroPage), start(&plan, RowName::Pml4)));
        assert_eq!(&bytes(&memory, cpu.rsi + 0x202), b"HdrS");
        let cmdline = u32::from_le_bytes(bytes(&memory, cpu.rsi + 0x228));
        assert_eq!(&bytes(&memory, cmdline.into()), b"console=ttyS0 panic=-1 quiet\0");
        assert_eq!(u64::from_le_bytes(bytes(&memory, cpu.cr3)), start(&plan, RowName::Pdpte) | 0b11);
        assert_ne!(u64::from_le_bytes(bytes(&memory, cpu.gdt.base + u64::from(cpu.code.selector))), 0);
    }
}

#[test]
fn multiboot_and_pvh_are_handed_their_structure() {
    for layout in PC {
        for (boot, eax) in [(Boot::Multiboot, 0x2BAD_B002), (Boot::Pvh, 0)] {
            let plan = x86_plan(layout, boot);
            let (cpu, memory) = write(&plan);
            let info = start(&plan, RowName::BootInfo);
            assert_eq!((cpu.rax, cpu.gdt.base, cpu.rbx), (eax, info, info + 32));
            let (cmdline, module) = if boot == Boot::Pvh { (24, 16) } else { (16, 24) };
            let field = |offset| u64::from(u32::from_le_bytes(bytes(&memory, cpu.rbx + offset)));
            let words: &[u8] = if boot == Boot::Pvh { b"quiet\0" } else { b"kernel quiet\0" };
            assert_eq!(&bytes::<13>(&memory, field(cmdline))[..words.len()], words);
            let initrd = u64::from(u32::from_le_bytes(bytes(&memory, field(module))));
            assert_eq!(initrd, start(&plan, RowName::Initrd), "{} {boot:?}", layout.name);
        }
    }
}

#[test]
fn firmware_starts_after_a_reset_and_finds_nothing() {
    for layout in PC {
        let mut plan = x86_plan(layout, Boot::Firmware);
        plan.cmdline = "ignored".into();
        let memory = memory(&plan);
        assert_eq!(super::x86_64::write(&plan, &memory).unwrap(), None);
        assert!(low(&memory).iter().all(|&byte| byte == 0), "{}", layout.name);
    }
}

#[test]
fn arm64_finds_its_device_tree() {
    let image = samples::arm64();
    // mov x0, #0
    let flat = 0xD280_0000_u32.to_le_bytes().repeat(100);
    for layout in ARM {
        for image in [&image, &flat] {
            let plan = plan(layout, kernel(Arch::Aarch64, image, Boot::Linux), INITRD.len() as u64);
            let memory = memory(&plan);
            let cpu = super::aarch64::write(&plan, &memory).unwrap();
            assert_eq!((cpu.entry, cpu.fdt), (start(&plan, RowName::Kernel), start(&plan, RowName::Fdt)));
            assert_eq!(u32::from_be_bytes(bytes(&memory, cpu.fdt)), 0xD00D_FEED);
            let size = u32::from_be_bytes(bytes(&memory, cpu.fdt + 4));
            assert!(u64::from(size) <= plan.map.need_claim(RowName::Fdt).unwrap().size(), "{}", layout.name);
        }
    }
}

#[test]
fn arm64_firmware_is_entered_at_its_first_byte() {
    for (layout, entry) in ARM.into_iter().zip([0x8020_0000, 0]) {
        let plan = plan(layout, firmware(Arch::Aarch64, MIB).unwrap(), 0);
        let memory = memory(&plan);
        let cpu = super::aarch64::write(&plan, &memory).unwrap();
        assert_eq!((cpu.entry, cpu.fdt), (entry, start(&plan, RowName::Fdt)));
        assert_eq!(u32::from_be_bytes(bytes(&memory, cpu.fdt)), 0xD00D_FEED);
    }
}

#[test]
fn files_lie_where_the_map_has_them() {
    let pc = PC.map(|layout| (layout, samples::bzimage(), 1024));
    let arm = ARM.map(|layout| (layout, samples::arm64(), 0));
    for (layout, mut image, skipped) in pc.into_iter().chain(arm) {
        image[2000..2004].copy_from_slice(b"here");
        let plan = plan(layout, kernel(layout.arch, &image, Boot::Linux), INITRD.len() as u64);
        let memory = memory(&plan);
        let files = Files {
            firmware: None,
            kernel: Some(Source::from_bytes(&image)),
            initrds: vec![Ramdisk { name: "initrd".into(), source: Source::from_bytes(INITRD) }],
            cmdline: None,
        };
        load(&plan, &files, &memory).unwrap();
        assert_eq!(&bytes(&memory, start(&plan, RowName::Kernel) + 2000 - skipped), b"here");
        assert_eq!(&bytes::<{ INITRD.len() }>(&memory, start(&plan, RowName::Initrd)), INITRD);
    }
}

#[test]
fn a_claim_that_is_missing_is_an_error_and_never_address_0() {
    use RowName::{Acpi, BootInfo, Cmdline, Ebda, Fdt, Gdt, Idt, IoApic, Lapic, MpTable, Pde, Pdpte, Pml4, ZeroPage};
    let without = |mut plan: Plan, row| {
        plan.map.claims.retain(|claim| claim.name != row);
        plan
    };
    let always = [Acpi, IoApic, Lapic, MpTable, Ebda, RowName::Kernel];
    for layout in PC {
        let linux = [Gdt, Idt, Pml4, Pdpte, Pde, Cmdline, ZeroPage];
        let rows = always.into_iter().chain(linux).map(|row| (Boot::Linux, row));
        for (boot, row) in rows.chain([(Boot::Pvh, BootInfo), (Boot::Multiboot, BootInfo)]) {
            let plan = without(x86_plan(layout, boot), row);
            let error = super::x86_64::write(&plan, &memory(&plan)).unwrap_err();
            assert_eq!(error.to_string(), format!("The x86_64 `{}` map has no `{row}`", layout.name));
        }
    }
    for layout in ARM {
        for row in [Fdt, RowName::Kernel] {
            let plan = without(plan(layout, kernel(Arch::Aarch64, &samples::arm64(), Boot::Linux), 0), row);
            let error = super::aarch64::write(&plan, &memory(&plan)).unwrap_err();
            assert_eq!(error.to_string(), format!("The aarch64 `{}` map has no `{row}`", layout.name));
        }
    }
}

#[test]
fn what_is_larger_than_its_place_is_refused() {
    let mut plan = x86_plan(PC[0], Boot::Linux);
    plan.cmdline = "x".repeat(2048);
    let error = super::x86_64::write(&plan, &memory(&plan)).unwrap_err();
    assert_eq!(error.to_string(), "The command line of 2049 bytes does not fit 0x20000-0x20800");
    let mut plan = x86_plan(PC[0], Boot::Pvh);
    plan.cmdline = "x".repeat(1 << 16);
    assert!(matches!(super::x86_64::write(&plan, &memory(&plan)), Err(BootError::Size { start: 0x8_0000, .. })));
}

#[test]
fn an_entry_that_cannot_be_reached_is_refused() {
    let mut plan = x86_plan(PC[0], Boot::Linux);
    plan.kernel.entry = Target::Kernel(u64::MAX);
    assert!(matches!(super::x86_64::write(&plan, &memory(&plan)), Err(BootError::Entry { start: MIB })));
    let mut plan = x86_plan(PC[0], Boot::Pvh);
    plan.kernel.entry = Target::At(1 << 32);
    assert!(matches!(super::x86_64::write(&plan, &memory(&plan)), Err(BootError::Entry { .. })));
}
