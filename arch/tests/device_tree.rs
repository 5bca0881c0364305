//! Device trees as the compiler of their specification reads them: every aarch64 machine's, without a warning.

use std::io::Write as _;
use std::ops::Range;
use std::process::{Command, Stdio};

use carpel_arch::aarch64::devices::ArmDevice;
use carpel_arch::aarch64::fdt::{FdtError, Machine, build};
use carpel_arch::aarch64::maps::{CROSVM, VIRT};
use carpel_arch::x86_64::devices::PcDevice;
use carpel_arch::{Arch, Device, DeviceKind, Gic, Inputs, KernelExtent, Layout, Place, resolve};

/// The tree as source text, from Debian's device-tree-compiler.
fn decompiled(tree: &[u8]) -> String {
    let mut command = Command::new("dtc");
    command.args(["-I", "dtb", "-O", "dts"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut dtc = command.spawn().expect("dtc (package device-tree-compiler) is installed");
    dtc.stdin.take().expect("its input is a pipe").write_all(tree).expect("dtc reads its input");
    let output = dtc.wait_with_output().expect("dtc ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("dtc writes text")
}

fn device(kind: DeviceKind, range: Range<u64>, spi: u32) -> Device {
    Device { kind, name: "device", place: Place::Mmio(range), irq: Some(spi) }
}

fn tree(layout: &Layout, gic: Gic, vcpus: u32) -> String {
    let kernel = Some(KernelExtent::Image { text_offset: 0, image_size: 32 << 20 });
    let inputs = Inputs { gic, vcpus, kernel, initrd: 5000, ..Inputs::new(Arch::Aarch64, 1 << 30) };
    let map = resolve(layout, &inputs).unwrap();
    let devices = match layout.name {
        "crosvm" => vec![
            device(DeviceKind::Arm(ArmDevice::Serial), 0x3F8..0x400, 0),
            device(DeviceKind::Arm(ArmDevice::Pl031), 0x2000..0x3000, 1),
            device(DeviceKind::VirtioMmio, 0x200_0000..0x200_1000, 4),
        ],
        _ => vec![
            device(DeviceKind::Arm(ArmDevice::Pl011), 0x900_0000..0x900_1000, 1),
            device(DeviceKind::Arm(ArmDevice::Pl031), 0x901_0000..0x901_1000, 2),
            device(DeviceKind::Arm(ArmDevice::Pl061), 0x903_0000..0x903_1000, 7),
            device(DeviceKind::VirtioMmio, 0xA00_0000..0xA00_4000, 16),
            device(DeviceKind::VirtioMmio, 0xA00_4000..0xA00_8000, 17),
            Device { irq: None, ..device(DeviceKind::Arm(ArmDevice::CfiFlash), 0x400_0000..0x410_0000, 0) },
        ],
    };
    let devices: Vec<_> = devices.iter().collect();
    decompiled(&build(&Machine { map: &map, vcpus, cmdline: "console=ttyS0 x=\"y\"", devices: &devices }).unwrap())
}

#[test]
fn every_machine_has_a_tree_without_a_warning() {
    for layout in [&CROSVM, &VIRT] {
        for (gic, vcpus) in [(Gic::V2, 1), (Gic::V2, 8), (Gic::V3, 1), (Gic::V3, 40)] {
            let text = tree(layout, gic, vcpus);
            let count = |needle: &str| text.matches(needle).count();
            assert_eq!(count("device_type = \"cpu\""), vcpus as usize);
            let version = if gic == Gic::V2 { "arm,cortex-a15-gic" } else { "arm,gic-v3" };
            assert_eq!(count(version), 1, "{} {gic:?}", layout.name);
        }
    }
}

#[test]
fn the_kernel_finds_its_console_memory_and_initrd() {
    let crosvm = tree(&CROSVM, Gic::V3, 1);
    for line in [
        "stdout-path = \"/serial@3f8\";",
        "bootargs = \"console=ttyS0 x=\\\"y\\\"\";",
        "linux,initrd-start = <0x00 0x82000000>;",
        "linux,initrd-end = <0x00 0x82001388>;",
        "reg = <0x00 0x80000000 0x00 0x40000000>;",
        "reg = <0x00 0x3fff0000 0x00 0x10000 0x00 0x3ffd0000 0x00 0x20000>;",
        "reg = <0x00 0x3f8 0x00 0x08>;",
        "interrupts = <0x00 0x04 0x01>;",
    ] {
        assert!(crosvm.contains(line), "{line} in {crosvm}");
    }
    let virt = tree(&VIRT, Gic::V2, 2);
    for line in [
        "stdout-path = \"/serial@9000000\";",
        "reg = <0x00 0x8000000 0x00 0x1000 0x00 0x8010000 0x00 0x2000>;",
        // Both CPUs have the timer's interrupts.
        "interrupts = <0x01 0x0d 0x304 0x01 0x0e 0x304 0x01 0x0b 0x304 0x01 0x0a 0x304>;",
        "clock-names = \"uartclk\\0apb_pclk\";",
        "bank-width = <0x04>;",
    ] {
        assert!(virt.contains(line), "{line} in {virt}");
    }
}

#[test]
fn cpus_are_named_by_their_affinity() {
    let text = tree(&VIRT, Gic::V3, 40);
    for name in ["cpu@0 ", "cpu@f ", "cpu@100 ", "cpu@207 "] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert!(!text.contains("cpu@10 "));
}

#[test]
fn a_device_that_arm_machines_do_not_have_is_an_error() {
    let map = resolve(&VIRT, &Inputs::new(Arch::Aarch64, 1 << 30)).unwrap();
    let ports = Device { place: Place::Ports(0x3F8..0x400), ..device(DeviceKind::Arm(ArmDevice::Serial), 0..1, 0) };
    for odd in [device(DeviceKind::Pc(PcDevice::Cmos), 0x1000..0x2000, 8), ports] {
        let tree = build(&Machine { map: &map, vcpus: 1, cmdline: "", devices: &[&odd] });
        assert!(matches!(tree, Err(FdtError::Device("device"))), "{tree:?}");
    }
}
