//! Architectures by the numbers of file formats, and what is told of another one's kernel.

use carpel_arch::map::{Arch, Inputs, KernelExtent};
use carpel_arch::{LAYOUTS, resolve};

use super::error::KernelError;

/// Guest memory, in bytes, with which a layout is tried: any kernel's fits.
const ENOUGH: u64 = 4 << 30;

/// `e_machine` of ELF by name (System V ABI, "ELF header"), and the guests whose kernels are such.
const ELF_MACHINES: &[(u16, &str, Option<Arch>)] = &[
    (2, "SPARC", None),
    (3, "i386", Some(Arch::X86_64)),
    (4, "m68k", None),
    (8, "MIPS", None),
    (15, "PA-RISC", None),
    (20, "32-bit PowerPC", None),
    (21, "PowerPC", None),
    (22, "s390x", None),
    (40, "32-bit Arm", None),
    (42, "SuperH", None),
    (43, "SPARC", None),
    (50, "Itanium", None),
    (62, "x86_64", Some(Arch::X86_64)),
    (94, "Xtensa", None),
    (183, "aarch64", Some(Arch::Aarch64)),
    (189, "MicroBlaze", None),
    (243, "riscv64", Some(Arch::Riscv64)),
    (247, "BPF", None),
    (252, "C-SKY", None),
    (258, "LoongArch", None),
];

/// `IMAGE_FILE_MACHINE_*` of PE images.
const PE_MACHINES: &[(u16, &str, Option<Arch>)] = &[
    (0x14C, "i386", None),
    (0x1C2, "32-bit Arm", None),
    (0x5064, "riscv64", Some(Arch::Riscv64)),
    (0x6264, "LoongArch", None),
    (0x8664, "x86_64", Some(Arch::X86_64)),
    (0xAA64, "aarch64", Some(Arch::Aarch64)),
];

/// For which processor a PE image is, and the guests that have it.
pub fn pe_machine(machine: u16) -> Option<(&'static str, Option<Arch>)> {
    named(PE_MACHINES, machine)
}

/// For which processor an ELF file is, and the guests that have it.
pub fn elf_machine(machine: u16, bits: u8) -> Option<(&'static str, Option<Arch>)> {
    match (machine, bits) {
        (243, 32) => Some(("32-bit RISC-V", None)),
        _ => named(ELF_MACHINES, machine),
    }
}

fn named(table: &[(u16, &'static str, Option<Arch>)], machine: u16) -> Option<(&'static str, Option<Arch>)> {
    table.iter().find(|(number, ..)| *number == machine).map(|&(_, name, arch)| (name, arch))
}

/// The error for a kernel of another architecture, with the layout that would take it.
pub fn architecture(
    format: &'static str,
    machine: &'static str,
    other: Option<Arch>,
    arch: Arch,
    extent: Option<KernelExtent>,
) -> KernelError {
    let layout = other.and_then(|other| Some((other, layout_for(other, extent)?)));
    let remedy = match layout {
        Some((other, layout)) => {
            let article = if other == Arch::Riscv64 { "a" } else { "an" };
            format!(": {article} {other} host takes it, with `--layout {layout}`")
        }
        None => ": there is no layout for such".into(),
    };
    KernelError::Architecture { format, machine, arch, remedy }
}

/// The first layout of an architecture that has room for a kernel.
fn layout_for(arch: Arch, extent: Option<KernelExtent>) -> Option<&'static str> {
    let inputs = Inputs { kernel: extent, ..Inputs::new(arch, ENOUGH) };
    let layouts = || LAYOUTS.iter().filter(|layout| layout.arch == arch);
    layouts().find(|layout| resolve(layout, &inputs).is_ok()).or_else(|| layouts().next()).map(|layout| layout.name)
}
