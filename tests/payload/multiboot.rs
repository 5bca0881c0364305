//! Multiboot guests: an ELF32, an ELF64 of high virtual addresses and an image with address fields.

use std::io::Write as _;

use carpel_testbed::payload;
use tempfile::NamedTempFile;

use crate::guest::{LAYOUTS, run};
use crate::map::{expected_e820, extent, map};

const KINDS: [&str; 3] = ["multiboot_elf32", "multiboot_elf64", "multiboot_flat"];

#[test]
fn a_kernel_is_told_its_name_and_the_machines_memory() {
    for layout in LAYOUTS {
        for kind in KINDS {
            let outcome = run(kind, &["--layout", layout, "-m", "5G", "-a", "a=1", "-a", "b"]).expect_status(0);
            assert_eq!(outcome.values("cmdline").next().unwrap(), [kind, "a=1", "b"]);
            assert_eq!(outcome.values("loader").next().unwrap()[0], "carpel");
            assert_eq!(outcome.values("module").count(), 0);
            let map = map(layout, &["-m", "5G", "-k", payload::path(kind).to_str().unwrap()]);
            let told: Vec<_> = outcome.values("memory").map(|values| values.join(" ")).collect();
            let expected: Vec<_> = expected_e820(&map).iter().map(|row| hexadecimal(row)).collect();
            assert_eq!(told, expected, "{layout} {kind}");
            // Memory, command line, modules, memory map, loader's name; KiB below 640 KiB and from 1 MiB to the first hole.
            let low = extent(&map, "regions", "low_ram").unwrap().1;
            let upper = format!("{:#x}", (low - (1 << 20)) >> 10);
            assert_eq!(outcome.values("info").next().unwrap(), ["0x24d", "0x27f", &upper]);
        }
    }
}

#[test]
fn a_module_arrives_whole_with_its_name() {
    let mut file = NamedTempFile::with_suffix(".module").unwrap();
    let bytes: Vec<u8> = (0..5000_u32).map(|i| (i * i / 8) as u8).collect();
    file.write_all(&bytes).unwrap();
    let sum = bytes.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let path = file.path().to_str().unwrap();
    let name = file.path().file_name().unwrap().to_str().unwrap();
    for layout in LAYOUTS {
        for kind in KINDS {
            let kernel = payload::path(kind);
            let map = map(layout, &["-k", kernel.to_str().unwrap(), "-i", path]);
            let (start, end) = extent(&map, "claims", "initrd").unwrap();
            let outcome = run(kind, &["--layout", layout, "-i", path]).expect_status(0);
            let module = outcome.values("module").next().unwrap();
            assert_eq!(module, [&format!("{start:#x}"), &format!("{end:#x}"), &format!("{sum:#x}"), name]);
        }
    }
}

#[test]
fn every_initrd_is_a_module_at_a_page_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let contents = [&b"first"[..], b"", b"the third"].map(|bytes| [bytes, b"."].concat());
    let files = [("one", &contents[0]), ("two", &contents[1]), ("three", &contents[2])].map(|(name, bytes)| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let arguments: Vec<_> = files.iter().flat_map(|file| ["-i", file]).collect();
    for layout in LAYOUTS {
        let options = [&["--layout", layout][..], &arguments].concat();
        let kernel = payload::path(KINDS[0]);
        let map = map(layout, &[&["-k", kernel.to_str().unwrap()], &arguments[..]].concat());
        let (start, end) = extent(&map, "claims", "initrd").unwrap();
        let outcome = run(KINDS[0], &options).expect_status(0);
        let expected: Vec<_> = ["one", "two", "three"]
            .iter()
            .zip(&contents)
            .enumerate()
            .map(|(index, (name, bytes))| {
                let sum = bytes.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
                let at = start + 0x1000 * index as u64;
                format!("{at:#x} {:#x} {sum:#x} {name}", at + bytes.len() as u64)
            })
            .collect();
        assert_eq!(outcome.values("module").map(|values| values.join(" ")).collect::<Vec<_>>(), expected);
        assert_eq!(end, start + 0x2000 + contents[2].len() as u64);
    }
}

#[test]
fn a_module_without_room_is_one_error_with_the_memory_that_it_needs() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(65 << 20).unwrap();
    let outcome = run(KINDS[0], &["-m", "64M", "-i", file.path().to_str().unwrap()]).expect_status(2);
    assert!(outcome.stderr.contains("the least --mem that works is 67M"), "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
}

#[test]
fn verbose_output_tells_the_way_and_what_was_ignored() {
    let outcome = run("multiboot_flat", &["-v"]).expect_status(0);
    for text in ["booted by multiboot", "address", "video mode", "0x8000"] {
        assert!(outcome.stderr.contains(text), "{text}: {outcome:#?}");
    }
    let outcome = run("hello", &["-v"]).expect_status(0);
    assert!(outcome.stderr.contains("booted by linux"), "{outcome:#?}");
}

#[test]
fn a_way_that_the_image_does_not_offer_is_one_error() {
    let outcome = run("hello", &["--boot", "pvh"]).expect_status(2);
    assert!(outcome.stderr.contains("cannot be booted by pvh, as --boot asks; it offers linux"), "{outcome:#?}");
    let outcome = run("hello", &["--boot", "uefi"]).expect_status(2);
    assert!(outcome.stderr.contains("linux, pvh, multiboot"), "{outcome:#?}");
}

/// A row of the map with its type as the guest prints it.
fn hexadecimal(row: &str) -> String {
    let (range, kind) = row.rsplit_once(' ').unwrap();
    format!("{range} 0x{kind}")
}
