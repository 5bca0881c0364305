//! Tables that contradict themselves are rejected by name, and limits are kept.

use carpel_arch::map::{Base, Row, Size, When};
use carpel_arch::{
    Arch, Board, Extent, Gic, Inputs, KernelExtent, Kind, LAYOUTS, Layout, MapError, RowName, aarch64, resolve,
};

const MIB: u64 = 1 << 20;

const LOW: Row = Row::region(RowName::LowRam, Kind::Ram, Base::At(0), Size::Ram { max: 4 * MIB });
const HIGH: Row = Row::region(RowName::HighRam, Kind::Ram, Base::At(4 * MIB), Size::Ram { max: 4 * MIB });

fn layout(rows: &'static [Row]) -> Layout {
    Layout {
        name: "test",
        arch: Arch::X86_64,
        board: Board::Pc,
        rows,
        window_region: RowName::Mmio,
        window_size: 0x1000,
        window_irqs: &[],
        max_vcpus: &[(When::Always, 1)],
    }
}

fn message(rows: &'static [Row], mem: u64) -> String {
    resolve(&layout(rows), &Inputs::new(Arch::X86_64, mem)).expect_err("the table is wrong").to_string()
}

#[test]
fn regions_that_overlap_are_named_with_their_ranges() {
    const DEVICES: Row = Row::fixed(RowName::Mmio, Kind::Mmio, 0x3F_F000..0x50_0000);
    let message = message(&[LOW, DEVICES], 4 * MIB);
    assert_eq!(message, "`low_ram` at 0x0-0x40_0000 overlaps `mmio` at 0x3F_F000-0x50_0000");
}

#[test]
fn claims_that_overlap_are_named_with_their_ranges() {
    const FIRST: Row = Row::fixed_claim(RowName::Gdt, 0x1000..0x3000);
    const SECOND: Row = Row::fixed_claim(RowName::Idt, 0x2FFF..0x4000);
    let message = message(&[LOW, SECOND, FIRST], 4 * MIB);
    assert_eq!(message, "`gdt` at 0x1000-0x3000 overlaps `idt` at 0x2FFF-0x4000");
}

#[test]
fn a_claim_must_lie_inside_one_region() {
    const NOWHERE: Row = Row::fixed_claim(RowName::Acpi, 0x50_0000..0x50_1000);
    const ACROSS: Row = Row::fixed_claim(RowName::Ebda, 0x3F_F000..0x40_1000);
    let nowhere = message(&[LOW, NOWHERE], 4 * MIB);
    assert_eq!(nowhere, "`acpi` at 0x50_0000-0x50_1000 does not lie inside any one region");
    let across = message(&[LOW, HIGH, ACROSS], 8 * MIB);
    assert_eq!(across, "`ebda` at 0x3F_F000-0x40_1000 does not lie inside any one region");
}

#[test]
fn a_claim_must_lie_inside_a_region_that_may_hold_it() {
    const DEVICES: Row = Row::fixed(RowName::Mmio, Kind::Mmio, 8 * MIB..9 * MIB);
    const STACK: Row =
        Row::fixed_claim(RowName::BootStack, 8 * MIB..9 * MIB).within(&[RowName::LowRam, RowName::HighRam]);
    assert_eq!(
        message(&[LOW, HIGH, DEVICES, STACK], 4 * MIB),
        "`boot_stack` at 0x80_0000-0x90_0000 does not lie inside `low_ram` or `high_ram`"
    );
}

#[test]
fn ram_that_no_window_takes_is_an_error() {
    assert_eq!(
        message(&[LOW, HIGH], 9 * MIB),
        "Guest memory of 9 MiB does not fit: the layout has no place for the last 1 MiB"
    );
}

#[test]
fn neighbouring_ram_is_one_slot() {
    let map = resolve(&layout(&[LOW, HIGH]), &Inputs::new(Arch::X86_64, 5 * MIB)).expect("the table is right");
    let one_slot = 0..5 * MIB;
    assert_eq!(map.slots(), [one_slot]);
}

#[test]
fn each_layout_has_room_for_so_many_vcpus() {
    let limits = [("krun", 64, 64), ("crosvm", 64, 64), ("crosvm", 512, 8), ("virt", 123, 8), ("virt", 512, 512)];
    for (layout, (name, v3, v2)) in LAYOUTS.iter().zip(limits) {
        assert_eq!(layout.name, name);
        for (gic, max) in [(Gic::V3, v3), (Gic::V2, v2)] {
            let with = |vcpus| resolve(layout, &Inputs { vcpus, gic, ..Inputs::new(layout.arch, 64 * MIB) });
            assert!(with(max).is_ok());
            for vcpus in [0, max + 1, u32::MAX] {
                assert_eq!(with(vcpus), Err(MapError::Vcpus { vcpus, max, layout: layout.name }));
            }
        }
    }
}

#[test]
fn an_x86_kernel_below_1_mib_is_rejected() {
    for layout in LAYOUTS.iter().filter(|layout| layout.arch == Arch::X86_64) {
        let kernel = Some(KernelExtent::Fixed { start: 0x1000, end: 0x6000 });
        let error = resolve(layout, &Inputs { kernel, ..Inputs::new(Arch::X86_64, 64 * MIB) }).expect_err("too low");
        assert_eq!(error.to_string(), "`kernel` at 0x1000 would start below 0x10_0000, the lowest address for kernels");
    }
}

#[test]
fn a_kernel_is_never_put_where_devices_are() {
    for layout in LAYOUTS {
        let inputs = Inputs::new(layout.arch, 64 * MIB);
        let map = resolve(layout, &inputs).expect("64 MiB are enough");
        for region in map.regions.iter().filter(|region| region.kind != Kind::Ram) {
            let &Extent { start, end, .. } = region;
            let error = resolve(layout, &Inputs { kernel: Some(KernelExtent::Fixed { start, end }), ..inputs.clone() });
            assert!(error.is_err(), "a kernel in {region}");
        }
    }
}

#[test]
fn gicv3_redistributors_grow_downwards() {
    for vcpus in [1, 2, 512] {
        let map = resolve(&aarch64::maps::CROSVM, &Inputs { vcpus, ..Inputs::new(Arch::Aarch64, 64 * MIB) })
            .expect("they fit");
        let redistributors = map.region(RowName::GicRedist).expect("GICv3 has them");
        assert_eq!(redistributors.range(), 0x3FFF_0000 - u64::from(vcpus) * 0x2_0000..0x3FFF_0000);
    }
}
