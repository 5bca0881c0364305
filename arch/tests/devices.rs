//! The tables of devices: what each machine comes with, and that nothing in them meets.

use carpel_arch::device::{Device, Place, place};
use carpel_arch::map::Boot;
use carpel_arch::{Arch, Board, Gic, Inputs, LAYOUTS, Layout, MemoryMap, MissingRow, RowName, resolve};

/// Each way to be started that the layout's machine offers.
fn maps(layout: &Layout) -> Vec<(Boot, MemoryMap)> {
    let firmware = |boot| if boot == Boot::Firmware { 1 << 20 } else { 0 };
    let boots: &[Boot] = match layout.arch {
        Arch::X86_64 => &[Boot::Linux, Boot::Pvh, Boot::Multiboot, Boot::Firmware],
        Arch::Aarch64 => &[Boot::Linux, Boot::Firmware],
        Arch::Riscv64 => &[Boot::Linux],
    };
    let map = |boot| {
        let inputs = Inputs { boot, firmware: firmware(boot), gic: Gic::V3, ..Inputs::new(layout.arch, 256 << 20) };
        (boot, resolve(layout, &inputs).expect("256 MiB are enough"))
    };
    boots.iter().copied().map(map).collect()
}

fn printed(map: &MemoryMap, boot: Boot, split_irqchip: bool) -> Vec<String> {
    let print = |Device { name, place, irq, .. }: &Device| match irq {
        Some(irq) => format!("{name} {place} {irq}"),
        None => format!("{name} {place}"),
    };
    place(map, boot, split_irqchip).expect("the map has all rows").iter().map(print).collect()
}

#[test]
fn a_pc_has_its_devices_where_kernels_look_for_them() {
    for layout in LAYOUTS.iter().filter(|layout| layout.arch == Arch::X86_64) {
        for (boot, map) in maps(layout) {
            let mut expected = vec![
                "serial ports 0x3f8-0x400 4",
                "i8042 ports 0x60-0x65",
                "rtc ports 0x70-0x72 8",
                "vga ports 0x3b0-0x3e0",
                "debug-exit ports 0xf4-0xf8",
                "pvpanic ports 0x505-0x506",
                "acpi-pm ports 0x600-0x60c 9",
            ];
            if boot == Boot::Firmware {
                expected.extend([
                    "debug-console ports 0x402-0x403",
                    "fw-cfg ports 0x510-0x512",
                    "host-bridge ports 0xcf8-0xd00",
                ]);
            } else {
                expected.push("reset ports 0xcf9-0xcfa");
            }
            assert_eq!(printed(&map, boot, false), expected);
            expected.extend(["port61 ports 0x61-0x62", "ioapic 0xFEC0_0000-0xFEC0_1000"]);
            assert_eq!(printed(&map, boot, true), expected);
        }
    }
}

#[test]
fn arm_boards_have_their_devices_where_their_maps_have_them() {
    let crosvm = ["serial0 0x3F8-0x400 0", "rtc 0x2000-0x3000 1"].as_slice();
    let virt = ["uart 0x900_0000-0x900_1000 1", "rtc 0x901_0000-0x901_1000 2", "gpio 0x903_0000-0x903_1000 7"];
    let with_firmware = [virt.as_slice(), &["flash_variables 0x400_0000-0x410_0000"]].concat();
    for layout in LAYOUTS.iter().filter(|layout| layout.arch == Arch::Aarch64) {
        for (boot, map) in maps(layout) {
            let expected = match (layout.board, boot) {
                (Board::ArmCrosvm, _) => crosvm,
                (_, Boot::Firmware) => &with_firmware,
                _ => &virt,
            };
            assert_eq!(printed(&map, boot, false), expected, "{} {boot:?}", layout.name);
        }
    }
}

#[test]
fn no_two_devices_have_one_name_or_one_address() {
    // The port between the keyboard controller's two is another device's.
    let shared = |a: &Device, b: &Device| (a.name, b.name) == ("i8042", "port61");
    let overlap = |a: &Place, b: &Place| match (a, b) {
        (Place::Ports(a), Place::Ports(b)) => a.start < b.end && b.start < a.end,
        (Place::Mmio(a), Place::Mmio(b)) => a.start < b.end && b.start < a.end,
        _ => false,
    };
    for layout in LAYOUTS {
        for (boot, map) in maps(layout) {
            let devices = place(&map, boot, true).expect("the map has all rows");
            for (index, device) in devices.iter().enumerate() {
                for other in &devices[..index] {
                    assert_ne!(device.name, other.name);
                    let meet = overlap(&device.place, &other.place) && !shared(other, device);
                    assert!(!meet, "{} `{}`: {device:?} meets {other:?}", layout.arch, layout.name);
                }
                for window in map.windows(layout).expect("the region is there").take(100) {
                    assert!(!overlap(&device.place, &Place::Mmio(window)), "{device:?} has a window's address");
                }
            }
        }
    }
}

#[test]
fn no_device_has_the_interrupt_of_a_window() {
    for layout in LAYOUTS {
        for row in layout.board.devices() {
            let taken = row.irq.is_some_and(|irq| layout.window_irqs.iter().any(|irqs| irqs.contains(&irq)));
            assert!(!taken, "{} `{}`: {row:?}", layout.arch, layout.name);
        }
    }
}

#[test]
fn a_device_whose_row_the_map_has_not_is_an_error() {
    let virt = LAYOUTS.iter().find(|layout| layout.board == Board::ArmVirt).expect("it is a layout");
    let (_, kernel) = maps(virt).remove(0);
    let missing = MissingRow { arch: Arch::Aarch64, layout: "virt", name: RowName::FlashVariables };
    assert_eq!(place(&kernel, Boot::Firmware, false), Err(missing));
}
