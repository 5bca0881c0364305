//! Rows are asked for by names that the compiler knows, and printed by names that scripts and documents rely on.

use std::collections::BTreeSet;

use carpel_arch::map::{Base, Row, Size, When};
use carpel_arch::x86_64::maps::KRUN;
use carpel_arch::{Arch, Board, Inputs, Kind, LAYOUTS, Layout, MapError, MissingRow, RowName, resolve};

/// What both x86-64 layouts claim: chips' registers, KVM's pages, firmware's image, and what a loader leaves behind.
const PC: &[&str] = &[
    "ioapic",
    "hpet",
    "lapic",
    "identity_map",
    "tss",
    "firmware_image",
    "firmware_low",
    "gdt",
    "idt",
    "zero_page",
    "pml4",
    "pdpte",
    "pde",
    "cmdline",
    "setup_data",
    "boot_info",
    "ebda",
    "acpi",
    "mptable",
    "kernel",
    "initrd",
];

/// Every name that a layout's map can have, in the order of [`LAYOUTS`].
const PRINTED: [(Arch, &str, &[&[&str]]); 5] = [
    (Arch::X86_64, "krun", &[PC, &["low_ram", "pci_hole", "mmio_window", "firmware", "high_ram", "shm", "boot_stack"]]),
    (
        Arch::X86_64,
        "crosvm",
        &[PC, &["low_ram", "low_mmio", "pcie_ecam", "reserved", "firmware", "high_ram", "shm", "high_mmio"]],
    ),
    (
        Arch::Aarch64,
        "crosvm",
        &[
            &["serial0", "serial1", "serial2", "serial3", "rtc", "vmwdt", "pci_cam", "virtfreq", "pvtime", "mmio"],
            &["gic_cpu", "gic_redist", "gic_dist", "pvm_firmware", "ram", "platform_mmio", "shm", "high_mmio"],
            &["kernel", "initrd", "fdt", "firmware"],
        ],
    ),
    (
        Arch::Aarch64,
        "virt",
        &[
            &["flash", "flash_variables", "gicd", "gicc", "gicv", "gich", "gicr", "uart", "rtc", "gpio", "virtio"],
            &["platform_bus", "pcie_ecam", "pcie_mmio", "ram", "shm", "firmware_image", "fdt", "kernel", "initrd"],
        ],
    ),
    (
        Arch::Riscv64,
        "virt",
        &[
            &["boot_rom", "clint", "plic", "uart", "virtio", "pcie_ecam", "pcie_mmio", "ram", "shm"],
            &["sbi_reserved", "kernel", "initrd"],
        ],
    ),
];

#[test]
fn every_row_is_printed_by_the_name_that_guest_maps_have() {
    for (layout, (arch, name, printed)) in LAYOUTS.iter().zip(PRINTED) {
        assert_eq!((layout.arch, layout.name), (arch, name));
        let rows: BTreeSet<_> = layout.rows.iter().map(|row| row.name.to_string()).collect();
        let expected: BTreeSet<_> = printed.iter().copied().flatten().map(|&name| name.to_owned()).collect();
        assert_eq!(rows, expected, "{arch} {name}");
    }
    assert_eq!(LAYOUTS.len(), PRINTED.len());
}

#[test]
fn every_name_is_some_layouts_and_no_two_are_printed_alike() {
    let mut printed = BTreeSet::new();
    for &name in RowName::ALL {
        assert!(LAYOUTS.iter().any(|layout| layout.rows.iter().any(|row| row.name == name)), "no layout has {name}");
        assert!(printed.insert(name.name()), "two names are printed as {name}");
    }
}

/// What a row is placed by is never absent from the table, where it would count as ending at address 0.
#[test]
fn rows_refer_to_rows_that_stand_before_them() {
    for Layout { arch, name, rows, window_region, .. } in LAYOUTS {
        for (index, row) in rows.iter().enumerate() {
            let placed_by: &[RowName] = match &row.base {
                Base::At(_) | Base::EndingAt(_) => &[],
                Base::After { rows, .. } => rows,
                Base::AfterHalf { rows, of, .. } => &[&[*of], *rows].concat(),
                Base::TopOf { row, above } => &[&[*row], *above].concat(),
            };
            for other in placed_by.iter().chain(row.within) {
                let before = rows[..index].iter().any(|row| row.name == *other);
                assert!(before, "{arch} {name}: {} refers to {other}", row.name);
            }
        }
        assert!(rows.iter().any(|row| row.name == *window_region && row.kind == Kind::Mmio), "{arch} {name}");
    }
}

#[test]
fn a_row_that_is_missing_is_an_error_that_names_it_and_the_map() {
    let map = resolve(&KRUN, &Inputs::new(Arch::X86_64, 64 << 20)).expect("64 MiB are enough");
    let missing = |name| MissingRow { arch: Arch::X86_64, layout: "krun", name };
    assert_eq!(map.need_claim(RowName::Kernel), Err(missing(RowName::Kernel)));
    assert_eq!(map.need_region(RowName::Gicd), Err(missing(RowName::Gicd)));
    assert_eq!(missing(RowName::Kernel).to_string(), "The x86_64 `krun` map has no `kernel`");
    // A claim is no region, nor the other way round.
    assert_eq!(map.need_region(RowName::Lapic), Err(missing(RowName::Lapic)));
    assert_eq!(map.need_claim(RowName::LowRam), Err(missing(RowName::LowRam)));
}

#[test]
fn a_table_that_places_a_row_in_none_is_an_error() {
    const LOST: [Row; 2] = [
        Row::region(RowName::LowRam, Kind::Ram, Base::At(0), Size::Ram { max: u64::MAX }),
        Row::claim(RowName::Fdt, Base::TopOf { row: RowName::Ram, above: &[] }, Size::Bytes(0x1000)),
    ];
    let layout = Layout {
        name: "test",
        arch: Arch::Aarch64,
        board: Board::ArmVirt,
        rows: &LOST,
        window_region: RowName::Mmio,
        window_size: 0x1000,
        window_irqs: &[],
        max_vcpus: &[(When::Always, 1)],
    };
    let missing = |name| MissingRow { arch: Arch::Aarch64, layout: "test", name };
    let inputs = Inputs::new(Arch::Aarch64, 1 << 20);
    assert_eq!(resolve(&layout, &inputs), Err(MapError::Missing(missing(RowName::Ram))));
    let map = resolve(&Layout { rows: &LOST[..1], ..layout }, &inputs).expect("RAM alone is a map");
    assert_eq!(map.windows(&layout).err(), Some(missing(RowName::Mmio)));
}
