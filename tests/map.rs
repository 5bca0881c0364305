//! The five maps as golden files, `carpel map` and docs/maps.md. `CARPEL_BLESS=1` rewrites files instead of comparing.

use std::error::Error as _;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use carpel_arch::map::{Boot, Gic, Inputs, KernelExtent, Layout, ShmRequest};
use carpel_arch::{Arch, LAYOUTS, resolve};
use serde_json::{Value, json};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// As Debian 6.1's cloud kernel has it: loaded at 2 MiB its file ends at 15.5 MiB, and it runs from 16 to 67.5 MiB.
const BZIMAGE: KernelExtent = KernelExtent::BzImage {
    load_size: 27 * MIB / 2,
    pref_address: 16 * MIB,
    alignment: 2 * MIB,
    init_size: 103 * MIB / 2,
};
/// An arm64 Image.
const ARM64_IMAGE: KernelExtent = KernelExtent::Image { text_offset: 0, image_size: 31 * MIB };
/// A RISC-V Image, which leaves 2 MiB to the SBI.
const RISCV_IMAGE: KernelExtent = KernelExtent::Image { text_offset: 2 * MIB, image_size: 25 * MIB };

/// Without a kernel, at the sizes where maps change.
#[test]
fn golden_maps_by_size() {
    for layout in LAYOUTS {
        let limit = match (layout.arch, layout.name) {
            (Arch::X86_64, "krun") => 0xC000_0000,
            (Arch::X86_64, _) => 0xD000_0000,
            (arch, name) => {
                (1 << arch.default_phys_bits()) - if name == "virt" && arch == Arch::Aarch64 { GIB } else { 2 * GIB }
            }
        };
        let sizes = [
            ("4K", 4 * KIB),
            ("64M", 64 * MIB),
            ("256M", 256 * MIB),
            ("3G", 3 * GIB),
            ("limit-4K", limit - 4 * KIB),
            ("limit", limit),
            ("limit+4K", limit + 4 * KIB),
            ("4G", 4 * GIB),
            ("64G", 64 * GIB),
        ];
        for (name, mem) in sizes {
            golden(layout, name, &Inputs::new(layout.arch, mem));
        }
    }
}

/// With what is loaded: 256 MiB of RAM, 2 vCPUs, an initrd of 40 MiB that a kernel wants below 2 GiB.
#[test]
fn golden_maps_by_boot() {
    for layout in LAYOUTS {
        let plain = Inputs { vcpus: 2, ..Inputs::new(layout.arch, 256 * MIB) };
        let with_initrd = Inputs { initrd: 40 * MIB, initrd_limit: 2 * GIB, ..plain.clone() };
        let kernel = |kernel| Inputs { kernel: Some(kernel), ..with_initrd.clone() };
        let firmware = |firmware| Inputs { boot: Boot::Firmware, firmware, ..plain.clone() };
        let cases = match layout.arch {
            Arch::X86_64 => {
                let elf = kernel(KernelExtent::Fixed { start: 16 * MIB, end: 60 * MIB });
                let microkernel = KernelExtent::Fixed { start: MIB, end: 80 * MIB };
                vec![
                    ("bzimage", kernel(BZIMAGE)),
                    ("bzimage-too-small", Inputs { mem: 64 * MIB, ..kernel(BZIMAGE) }),
                    ("elf", elf.clone()),
                    ("pvh", Inputs { boot: Boot::Pvh, ..elf }),
                    ("multiboot", Inputs { boot: Boot::Multiboot, initrd: 0, ..kernel(microkernel) }),
                    ("firmware", firmware(256 * KIB)),
                    ("shm", Inputs { shm: vec![shm("shm", 256 * MIB)], mem: 6 * GIB, ..plain }),
                ]
            }
            Arch::Aarch64 => vec![
                ("image", Inputs { initrd_limit: u64::MAX, ..kernel(ARM64_IMAGE) }),
                ("image-gicv2", Inputs { gic: Gic::V2, ..kernel(ARM64_IMAGE) }),
                ("image-too-small", Inputs { mem: 64 * MIB, initrd_limit: u64::MAX, ..kernel(ARM64_IMAGE) }),
                ("flat", Inputs { initrd: 0, ..kernel(KernelExtent::Flat { size: 300 * KIB }) }),
                ("flat-initrd", Inputs { initrd_limit: u64::MAX, ..kernel(KernelExtent::Flat { size: 300 * KIB }) }),
                ("flat-large", Inputs { initrd_limit: u64::MAX, ..kernel(KernelExtent::Flat { size: 150 * MIB }) }),
                ("flat-1G", Inputs { mem: GIB, initrd: 0, ..kernel(KernelExtent::Flat { size: 300 * KIB }) }),
                ("firmware", firmware(2 * MIB)),
                ("shm", Inputs { shm: vec![shm("shm", 256 * MIB)], mem: 6 * GIB, ..plain }),
            ],
            Arch::Riscv64 => vec![
                ("image", Inputs { initrd_limit: u64::MAX, ..kernel(RISCV_IMAGE) }),
                ("image-too-small", Inputs { mem: 64 * MIB, initrd_limit: u64::MAX, ..kernel(RISCV_IMAGE) }),
                ("shm", Inputs { shm: vec![shm("shm", 256 * MIB)], mem: 6 * GIB, ..plain }),
                ("flat", Inputs { initrd: 0, ..kernel(KernelExtent::Flat { size: 300 * KIB }) }),
            ],
        };
        for (name, inputs) in cases {
            golden(layout, name, &inputs);
        }
    }
}

fn shm(name: &str, size: u64) -> ShmRequest {
    ShmRequest { name: name.to_owned(), size }
}

/// One region of shared memory behind the other, with names of their own, below and above 4 GiB.
#[test]
fn golden_maps_with_shared_memory() {
    for layout in LAYOUTS {
        for (name, mem) in [("shm-256M", "256M"), ("shm-6G", "6G")] {
            let options = ["-m", mem, "--shm", "cache=1G", "--shm", "gpu.0=4K", "--shm", "shm=1536M"];
            let output = carpel_map(layout, &options);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            compare(&golden_path(layout, name), &String::from_utf8_lossy(&output.stdout));
        }
    }
}

#[test]
fn shared_memory_ends_at_the_last_address_and_not_behind_it() {
    for layout in LAYOUTS {
        let limit = 1_u64 << 38;
        let map = resolve(layout, &Inputs { phys_bits: 38, ..Inputs::new(layout.arch, 5 * GIB) }).expect("5 GiB fit");
        let end = map.ram().last().expect("there is RAM").end.next_multiple_of(GIB);
        // Behind RAM, aarch64 `crosvm` has a region of devices.
        let start = if (layout.arch, layout.name) == (Arch::Aarch64, "crosvm") { end + GIB } else { end };
        for (more, fits) in [(0, true), (4 * KIB, false)] {
            let first = format!("first={}", limit - start - GIB);
            let second = format!("second={}", GIB + more);
            let options = ["-m", "5G", "--phys-bits", "38", "--shm", &first, "--shm", &second, "--format", "json"];
            let output = carpel_map(layout, &options);
            assert_eq!(output.status.code(), Some(if fits { 0 } else { 2 }), "{layout:?}");
            if fits {
                let printed: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON");
                let regions = printed["regions"].as_array().expect("regions are a list");
                let second = json!({"name": "second", "start": limit - GIB, "end": limit, "kind": "shm"});
                assert_eq!(regions.last(), Some(&second));
            } else {
                let expected = "carpel: Cannot lay out the `NAME` map: `second` of 1048580 KiB would end at \
                                0x40_0000_1000, beyond the limit of 38 guest physical address bits (0x40_0000_0000)\n";
                let expected = expected.replace("NAME", layout.name);
                assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
            }
        }
    }
}

#[test]
fn map_prints_the_golden_text() {
    for layout in LAYOUTS {
        let output = carpel_map(layout, &["-m", "256M"]);
        let golden = std::fs::read_to_string(golden_path(layout, "256M")).expect("the golden file is there");
        assert_eq!(String::from_utf8_lossy(&output.stdout), golden);
        assert!(output.status.success());
    }
}

#[test]
fn json_is_one_object_of_the_promised_shape() {
    for layout in LAYOUTS {
        let output = carpel_map(layout, &["--mem", "3G", "--format", "json"]);
        let printed: Value = serde_json::from_slice(&output.stdout).expect("stdout is JSON and nothing else");
        let map = resolve(layout, &Inputs::new(layout.arch, 3 * GIB)).expect("3 GiB fits everywhere");
        let extents = |extents: &[carpel_arch::Extent]| -> Vec<_> {
            extents
                .iter()
                .map(|e| json!({"name": e.name, "start": e.start, "end": e.end, "kind": e.kind.name()}))
                .collect()
        };
        let expected = json!({
            "arch": layout.arch.name(),
            "layout": layout.name,
            "mem": 3 * GIB,
            "regions": extents(&map.regions),
            "claims": extents(&map.claims),
        });
        assert_eq!(printed, expected);
    }
}

#[test]
fn a_map_that_does_not_resolve_is_one_line_and_status_2() {
    let krun = LAYOUTS[0];
    for (options, line) in [
        (&["-m", "4K"][..], "the least --mem that works is 1M"),
        (&["-m", "0"], "the least --mem that works is 1M"),
        (&["-m", "1000001"], "1000001 bytes is not a positive multiple of 4096 bytes"),
        (&["-m", "64G", "--phys-bits", "36"], "beyond the limit of 36 guest physical address bits (0x10_0000_0000)"),
        (&["--phys-bits", "64"], "64 guest physical address bits are not in the range of 32 to 52"),
        (&["-c", "0"], "0 vCPUs are not in the range of 1 to 64"),
        (&["-c", "10000"], "10000 vCPUs are not in the range of 1 to 64"),
        (&["--shm", "a=0"], "Shared memory `a` of 0 bytes is not a positive multiple of 4096 bytes"),
        (&["--shm", "a=1K"], "Shared memory `a` of 1024 bytes is not a positive multiple of 4096 bytes"),
        (&["--shm", "a=16383P"], "A size is a number with K, M, G or T behind it"),
        (&["--shm", "a=18446744073709547520"], "beyond the limit of 46 guest physical address bits"),
        (&["--shm", "a=100T"], "`a` of 100 TiB would end at 0x6401_0000_0000, beyond the limit of 46 guest physical"),
        (&["--shm", "a"], "NAME=SIZE, such as cache=1G"),
        (&["--shm", "=1G"], "NAME=SIZE, such as cache=1G"),
        (&["--shm", "a b=1G"], "cannot be called `a b`: a name is 1 to 64 letters, digits"),
        (&["--shm", "a=4K", "--shm", "a=8K"], "cannot be called `a`: the `krun` map has that name already"),
        (&["--shm", "low_ram=4K"], "cannot be called `low_ram`: the `krun` map has that name already"),
        (&["--shm", "kernel=4K"], "cannot be called `kernel`: the `krun` map has that name already"),
    ] {
        let output = carpel_map(krun, options);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{options:?}: {stderr}");
        assert!(stderr.starts_with("carpel: ") && stderr.lines().count() == 1 && stderr.contains(line), "{stderr}");
        assert!(output.stdout.is_empty());
    }
}

/// docs/maps.md holds `<!-- carpel map ... -->` comments, each followed by what that command prints.
#[test]
fn docs_show_what_the_program_prints() {
    let path = root().join("docs/maps.md");
    let page = std::fs::read_to_string(&path).expect("docs/maps.md is there");
    let mut fresh = String::new();
    let mut rest = page.as_str();
    while let Some((before, after)) = rest.split_once("<!-- carpel map ") {
        let (arguments, after) = after.split_once(" -->\n").expect("the comment ends its line");
        let (_, after) = after.split_once("<!-- end -->").expect("the block has an end");
        let output = carpel(&arguments.split(' ').collect::<Vec<_>>());
        let block = String::from_utf8(output.stdout).expect("carpel prints UTF-8");
        assert!(output.status.success(), "carpel map {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        write!(fresh, "{before}<!-- carpel map {arguments} -->\n{block}<!-- end -->").expect("a String takes all");
        rest = after;
    }
    fresh.push_str(rest);
    for layout in LAYOUTS {
        let command = format!("<!-- carpel map --arch {} --layout {} ", layout.arch, layout.name);
        assert!(page.contains(&command), "docs/maps.md does not show the {} `{}` map", layout.arch, layout.name);
    }
    compare(&path, &fresh);
}

/// Compares a resolved map, or the error's chain, with its golden file.
fn golden(layout: &Layout, name: &str, inputs: &Inputs) {
    let text = match resolve(layout, inputs) {
        Ok(map) => map.to_string(),
        Err(error) => match error.source() {
            Some(source) => format!("{error}: {source}\n"),
            None => format!("{error}\n"),
        },
    };
    compare(&golden_path(layout, name), &text);
}

fn golden_path(layout: &Layout, name: &str) -> PathBuf {
    root().join(format!("tests/golden/map/{}-{}-{name}.txt", layout.arch, layout.name))
}

fn compare(path: &Path, text: &str) {
    if std::env::var_os("CARPEL_BLESS").is_some() {
        std::fs::write(path, text).expect("the file can be written");
    }
    let stored = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        stored == text,
        "{} is not what the program prints; if the new text is right, rewrite it with \
         `CARPEL_BLESS=1 cargo test --test map`. The new text:\n{text}",
        path.display()
    );
}

fn carpel_map(layout: &Layout, options: &[&str]) -> Output {
    carpel(&[&["--arch", layout.arch.name(), "--layout", layout.name], options].concat())
}

/// Runs `carpel map` with these options.
fn carpel(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_carpel")).arg("map").args(options).output().expect("carpel can be run")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
