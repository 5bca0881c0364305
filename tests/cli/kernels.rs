//! What a kernel is told, what comes with it, and files that are none.

use std::fs;
use std::path::{Path, PathBuf};

use carpel_testbed::payload;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::carpel::{carpel, complaint, expect_parts, hello, refusal};
use crate::files::bzimage;
use crate::guest::{Outcome, finish};

/// A directory for the files of one test.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempdir().unwrap())
    }

    fn write(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

fn run(kernel: &Path, arguments: &[&str]) -> Outcome {
    finish(carpel(&["run", "-k"]).arg(kernel).args(arguments))
}

fn dry_run(kernel: &Path, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--dry-run", "--format", "json"]].concat();
    serde_json::from_str(&run(kernel, &arguments).expect_status(0).stdout).unwrap()
}

/// What the payload `bootinfo` says that it was told.
fn told(kernel: &Path, arguments: &[&str]) -> String {
    let outcome = run(kernel, arguments).expect_status(0);
    outcome.stdout.lines().find_map(|line| line.strip_prefix("cmdline: ")).unwrap().to_owned()
}

/// The payload with Linux's banner behind its code, where its segments have room.
fn with_banner(scratch: &Scratch) -> PathBuf {
    let mut image = fs::read(payload::path("bootinfo")).unwrap();
    let text = b"cmdline: %s\n";
    let at = image.windows(text.len()).position(|bytes| bytes == text).unwrap();
    // Its own strings follow: the last of them is given up.
    let end = b"initrd %lx %lx %lx\n";
    let end_at = image.windows(end.len()).position(|bytes| bytes == end).unwrap();
    assert!(end_at > at && end.len() > b"Linux version \0".len());
    image[end_at..end_at + 15].copy_from_slice(b"Linux version \0");
    scratch.write("linux", &image)
}

#[test]
fn a_kernel_that_is_not_linux_gets_the_users_words_only() {
    let scratch = Scratch::new();
    let other = payload::path("bootinfo");
    assert_eq!(told(&other, &[]), "");
    assert_eq!(told(&other, &["-a", "a", "-a", "b c"]), "a b c");
    assert_eq!(told(&other, &["--cmdline", "x", "-a", "a"]), "x a");
    let linux = with_banner(&scratch);
    assert_eq!(told(&linux, &["-a", "a"]), "console=ttyS0 panic=-1 a");
}

#[test]
fn verbose_output_and_dry_runs_say_whether_it_is_linux() {
    let scratch = Scratch::new();
    let linux = with_banner(&scratch);
    for (kernel, is_linux, shown) in [
        (linux, true, "its data holds `Linux version `"),
        (payload::path("bootinfo"), false, "no, its command line is the user's"),
        (scratch.write("bzImage", &bzimage()), true, "it is a bzImage"),
        (payload::path("multiboot_flat"), false, "no, its command line is the user's"),
    ] {
        assert_eq!(dry_run(&kernel, &[])["plan"]["linux"], is_linux);
        let text = run(&kernel, &["--dry-run", "-v"]).expect_status(0);
        expect_parts(&text.stdout, &["linux: ", shown]);
        expect_parts(&text.stderr, &[if is_linux { "The kernel is Linux: " } else { "The kernel is not Linux" }]);
    }
}

#[test]
fn a_whole_command_line_replaces_carpels_words() {
    let scratch = Scratch::new();
    let linux = with_banner(&scratch);
    let outcome = run(&linux, &["--cmdline", "quiet", "-a", "ro"]).expect_status(0);
    expect_parts(&outcome.stdout, &["cmdline: quiet ro\n"]);
    let line = outcome.stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    expect_parts(line, &["carpel: ", "no `console=`", "console=ttyS0"]);
    for arguments in [&["--cmdline", "console=ttyS0 quiet"][..], &["--cmdline", "", "-a", "console=hvc0"]] {
        assert_eq!(run(&linux, arguments).expect_status(0).stderr, "", "{arguments:?}");
    }
    assert_eq!(
        told(&linux, &["--cmdline", "console=ttyS0", "--announce", "cmdline"]).split(' ').next(),
        Some("console=ttyS0")
    );
    expect_parts(&told(&linux, &["--cmdline", "console=ttyS0", "--announce", "cmdline"]), &["virtio_mmio.device="]);
    // Who is not Linux has no console to name.
    assert_eq!(run(&payload::path("bootinfo"), &["--cmdline", "quiet"]).expect_status(0).stderr, "");
    let whole = dry_run(&linux, &["--cmdline", "console=x"]);
    assert_eq!((&whole["config"]["cmdline"], &whole["plan"]["cmdline"]), (&"console=x".into(), &"console=x".into()));
    refusal(&mut hello(&["--cmdline", "a", "--cmdline", "b"]), 2);
}

#[test]
fn initrds_follow_one_another_at_words() {
    let scratch = Scratch::new();
    let (first, second) = (vec![1; 4096 - 1], vec![2; 4096 * 2]);
    let (one, two) = (scratch.write("one", &first), scratch.write("two", &second));
    let joined = scratch.write("joined", &[&first[..], &[0], &second].concat());
    let info = |files: &[&Path]| {
        let arguments: Vec<_> = files.iter().flat_map(|file| ["-i", file.to_str().unwrap()]).collect();
        let outcome = run(&payload::path("bootinfo"), &arguments).expect_status(0);
        outcome.values("initrd").next().unwrap().join(" ")
    };
    assert_eq!(info(&[&one, &two]), info(&[&joined]));
    assert_ne!(info(&[&two, &one]), info(&[&joined]));
    // A file's come first.
    let config = dry_run(&payload::path("bootinfo"), &["-i", one.to_str().unwrap()])["config"].clone();
    let config = scratch.write("guest.json", config.to_string().as_bytes());
    let outcome = finish(carpel(&["run", "--config"]).arg(config).arg("-i").arg(&two)).expect_status(0);
    assert_eq!(outcome.values("initrd").next().unwrap().join(" "), info(&[&joined]));
}

/// A unified kernel image of these sections: an x86-64 PE image, its sections padded as in a file.
fn uki(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    let set = |image: &mut Vec<u8>, at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    set(&mut image, 0, b"MZ");
    set(&mut image, 0x3C, &[0x80]);
    set(&mut image, 0x80, b"PE\0\0\x64\x86");
    set(&mut image, 0x86, &[sections.len() as u8]);
    for (index, (name, bytes)) in sections.iter().enumerate() {
        let (offset, row) = (image.len() as u32, 0x98 + 40 * index);
        image.extend(*bytes);
        image.resize(image.len().next_multiple_of(0x200), 0);
        let raw = image.len() as u32 - offset;
        set(&mut image, row, name.as_bytes());
        for (field, value) in [(8, bytes.len() as u32), (16, raw), (20, offset)] {
            set(&mut image, row + field, &value.to_le_bytes());
        }
    }
    image
}

#[test]
fn a_unified_kernel_image_brings_its_initrd_and_command_line() {
    let scratch = Scratch::new();
    let linux = fs::read(with_banner(&scratch)).unwrap();
    let other = fs::read(payload::path("bootinfo")).unwrap();
    let initrd = vec![3; 4096];
    let more = scratch.write("more", &[4; 4096]);
    let sections = |kernel: &'static [u8]| {
        [
            (".osrel", &b"ID=x"[..]),
            (".cmdline", b"root=x\n\0"),
            (".linux", kernel),
            (".initrd", &[3; 4096]),
            (".dtbauto", b"?"),
        ]
    };
    let image = scratch.write("uki.efi", &uki(&sections(linux.leak())));
    assert_eq!(told(&image, &[]), "console=ttyS0 panic=-1 root=x");
    assert_eq!(told(&image, &["-a", "a"]), "console=ttyS0 panic=-1 root=x a");
    assert_eq!(told(&image, &["--cmdline", "console=y", "-a", "a"]), "console=y a");
    let image = scratch.write("uki.efi", &uki(&sections(other.leak())));
    assert_eq!(told(&image, &["-a", "a"]), "root=x a");
    let info = |kernel: &Path, arguments: &[&str]| {
        let outcome = run(kernel, arguments).expect_status(0);
        outcome.values("initrd").next().unwrap().join(" ")
    };
    let alone = scratch.write("alone", &initrd);
    let joined = scratch.write("joined", &[initrd, vec![4; 4096]].concat());
    let bootinfo = payload::path("bootinfo");
    assert_eq!(info(&image, &[]), info(&bootinfo, &["-i", alone.to_str().unwrap()]));
    assert_eq!(info(&image, &["-i", more.to_str().unwrap()]), info(&bootinfo, &["-i", joined.to_str().unwrap()]));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

/// Zeros with these bytes somewhere in them.
fn with(size: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (at, part) in parts {
        bytes[*at..at + part.len()].copy_from_slice(part);
    }
    bytes
}

#[test]
fn what_is_no_kernel_is_named_as_what_it_is() {
    let scratch = Scratch::new();
    let tar = with(1024, &[(0, b"vmlinuz"), (257, b"ustar\x0000")]);
    let cases: &[(Vec<u8>, &[&str])] = &[
        (with(100, &[(0, b"\x27\x05\x19\x56")]), &["a U-Boot image (uImage)", "dumpimage"]),
        (with(200, &[(0, b"\xD0\x0D\xFE\xED"), (60, b"\0\0\0\x01images\0")]), &["a U-Boot FIT image", "dumpimage"]),
        (with(200, &[(0, b"\xD0\x0D\xFE\xED")]), &["a device tree"]),
        (with(4096, &[(0, b"ANDROID!")]), &["an Android boot image"]),
        (with(512, &[(0, b"QFI\xFB\0\0\0\x03")]), &["a qcow2 disk image", "--disk FILE,format=qcow2"]),
        (b"\n <!DOCTYPE html><html></html>".to_vec(), &["an HTML page"]),
        (b"<HTML>".to_vec(), &["an HTML page"]),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(),
            &["a git-lfs pointer", "git lfs pull"],
        ),
        (b"#!/bin/sh\nexit\n".to_vec(), &["a script"]),
        (tar.clone(), &["a tar archive"]),
        (gzip(&tar), &["a tar archive"]),
        (gzip(b"07070100000000"), &["a cpio archive", "--initrd"]),
        (with(0x1000, &[(0x418, &[2]), (0x438, b"\x53\xEF\x01"), (0x44C, &[1])]), &["an ext4 file system", "--disk"]),
        (with(512, &[(450, &[0x83]), (510, b"\x55\xAA")]), &["a disk image with partitions", "--disk"]),
        (uki(&[(".text", b"code")]), &["an EFI program without a kernel"]),
        (b"{\"name\": \"a kernel\"}\n".to_vec(), &["a text file"]),
        (b"PK\x03\x04....".to_vec(), &["a zip archive"]),
    ];
    for (contents, parts) in cases {
        let line = complaint(run(&scratch.write("file", contents), &[]), 2);
        expect_parts(&line, &["It is ", "not a kernel"]);
        expect_parts(&line, parts);
    }
}

#[test]
fn another_architectures_kernel_is_named_with_its_layout() {
    let scratch = Scratch::new();
    let elf = |class: u8, order: u8, machine: &[u8], start: u64| {
        let mut image =
            with(0x200, &[(0, b"\x7FELF"), (4, &[class, order]), (16, &[2]), (18, machine), (32, &[64]), (54, &[56])]);
        for (at, bytes) in
            [(24, start.to_le_bytes()), (64 + 24, start.to_le_bytes()), (64 + 32, [16, 0, 0, 0, 0, 0, 0, 0])]
        {
            image[at..at + 8].copy_from_slice(&bytes);
        }
        (image[56], image[64], image[64 + 8], image[64 + 40]) = (1, 1, 0x80, 16);
        image
    };
    let cases: &[(Vec<u8>, &[&str])] = &[
        (
            elf(2, 1, &[243], 0x8020_0000),
            &["The ELF is for riscv64, not for x86_64", "a riscv64 host", "`--layout virt`"],
        ),
        (elf(2, 1, &[183], 0x8020_0000), &["The ELF is for aarch64", "an aarch64 host", "`--layout crosvm`"]),
        (elf(2, 1, &[183], 0x4008_0000), &["The ELF is for aarch64", "`--layout virt`"]),
        (elf(2, 2, &[0, 22], 0), &["The ELF is for s390x", "no layout"]),
        (elf(1, 1, &[40], 0), &["The ELF is for 32-bit Arm", "no layout"]),
        (with(4096, &[(56, b"ARM\x64")]), &["The Image is for aarch64", "`--layout crosvm`"]),
        (gzip(&with(4096, &[(56, b"RSC\x05")])), &["The Image is for riscv64", "`--layout virt`"]),
    ];
    for (contents, parts) in cases {
        expect_parts(&complaint(run(&scratch.write("file", contents), &[]), 2), parts);
    }
    // And for other guests than this host's.
    let map = |arch: &str, contents: &[u8]| {
        let path = scratch.write("file", contents);
        complaint(finish(carpel(&["map", "--arch", arch, "-k"]).arg(path)), 2)
    };
    let bzimage = fs::read(payload::path("bzimage")).unwrap();
    for arch in ["aarch64", "riscv64"] {
        expect_parts(&map(arch, &bzimage), &["The bzImage is for x86_64, not for ", arch, "`--layout krun`"]);
        expect_parts(&map(arch, b"#!/bin/sh\n"), &["It is a script"]);
    }
    // Of the right architecture, where another layout has memory for it.
    let low = elf(2, 1, &[183], 0x4008_0000);
    expect_parts(&map("aarch64", &low), &["`crosvm`", "`--layout virt` takes it"]);
}
