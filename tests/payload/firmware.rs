//! `--firmware`: an image of our own that checks where it is, and the distribution's.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use carpel_testbed::{packages, payload};
use tempfile::NamedTempFile;

use crate::guest::{LAYOUTS, Outcome, finish};

/// A disk's sector, in bytes.
const SECTOR: usize = 512;

/// The last 256 bytes of an image. It starts at the reset vector, jumps to its copy below 1 MiB, and prints `R` and the
/// first byte of `fw_cfg`'s signature. If the debug console answers and the copy can be written, it gives 0x10 to the
/// debug exit.
fn image(size: usize) -> Vec<u8> {
    const LOW_COPY: &[u8] = &[
        0xBA, 0xF8, 0x03, // mov dx, 0x3F8
        0xB0, 0x52, // mov al, 'R'
        0xEE, // out dx, al
        0xBA, 0x10, 0x05, // mov dx, 0x510
        0x31, 0xC0, // xor ax, ax
        0xEF, // out dx, ax
        0x42, // inc dx
        0xEC, // in al, dx
        0xBA, 0xF8, 0x03, // mov dx, 0x3F8
        0xEE, // out dx, al
        0xBA, 0x02, 0x04, // mov dx, 0x402
        0xEC, // in al, dx
        0x3C, 0xE9, // cmp al, 0xE9
        0x75, 0x15, // jne hang
        0xB8, 0x00, 0xF0, // mov ax, 0xF000
        0x8E, 0xD8, // mov ds, ax
        0xC6, 0x06, 0x00, 0xFE, 0x5A, // mov byte [0xFE00], 0x5A
        0x80, 0x3E, 0x00, 0xFE, 0x5A, // cmp byte [0xFE00], 0x5A
        0x75, 0x04, // jne hang
        0xB0, 0x10, // mov al, 0x10
        0xE6, 0xF4, // out 0xF4, al
        0xFA, 0xF4, // hang: cli; hlt
    ];
    /// `jmp 0xF000:0xFF00`
    const RESET_VECTOR: &[u8] = &[0xEA, 0x00, 0xFF, 0x00, 0xF0];
    let mut image = vec![0xFF; size];
    image[size - 0x100..][..LOW_COPY.len()].copy_from_slice(LOW_COPY);
    image[size - 0x10..][..RESET_VECTOR.len()].copy_from_slice(RESET_VECTOR);
    image
}

fn run(firmware: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carpel"));
    finish(command.arg("run").arg("--firmware").arg(firmware).args(args).stdin(Stdio::null()))
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A file of Debian's `seabios`, unpacked where the package is not installed.
fn seabios(name: &str) -> PathBuf {
    let path = Path::new("/usr/share/seabios").join(name);
    if path.is_file() {
        return path;
    }
    let package = packages::candidate("seabios").and_then(|package| package.unpacked());
    package
        .unwrap_or_else(|error| panic!("This test needs the package seabios: {error:#}"))
        .join(&path.to_str().unwrap()[1..])
}

#[test]
fn an_image_of_any_size_starts_at_the_reset_vector() {
    for layout in LAYOUTS {
        for size in [4 << 10, 64 << 10, 256 << 10, 16 << 20] {
            let outcome = run(file(&image(size)).path(), &["--layout", layout]).expect_status(0x10 << 1 | 1);
            assert_eq!(outcome.stdout, "RQ", "{layout} {size}");
        }
    }
}

#[test]
fn what_is_no_image_is_one_error() {
    let errors = [
        (4095, &[][..], "its size of 4095 bytes is not a multiple of 4 KiB"),
        ((16 << 20) + 4096, &[], "`firmware_image`"),
        (4096, &["-k", "/dev/null"], "It is a device"),
        (4096, &["-i", "/proc/self/exe"], "cannot be combined with --firmware"),
        (4096, &["-a", "quiet"], "The command line `quiet` is for a kernel"),
        (4096, &["--announce", "cmdline"], "drop --append and --announce cmdline"),
    ];
    for (size, args, expected) in errors {
        let outcome = run(file(&vec![0; size]).path(), args).expect_status(2);
        assert!(outcome.stderr.contains(expected) && outcome.stderr.lines().count() == 1, "{outcome:#?}");
    }
}

#[test]
fn seabios_reaches_its_boot_prompt() {
    for (layout, name) in [("krun", "bios-256k.bin"), ("crosvm", "bios.bin"), ("krun", "bios-microvm.bin")] {
        let outcome = run(&seabios(name), &["--layout", layout, "-c", "2", "--until", "No bootable device"]);
        assert!(outcome.status == 0 && outcome.stdout.contains("SeaBIOS (version "), "{name}: {outcome:#?}");
    }
}

/// A disk whose first sector boots, with a text in the second one.
fn bootable_disk(text: &str) -> NamedTempFile {
    let mut disk = fs::read(payload::path("boot_sector")).unwrap();
    assert_eq!(disk.len(), SECTOR);
    disk.extend(text.as_bytes());
    disk.resize(1 << 20, 0);
    file(&disk)
}

#[test]
fn seabios_boots_a_disk_and_reads_and_writes_it() {
    for (layout, name) in [("krun", "bios-256k.bin"), ("crosvm", "bios-microvm.bin")] {
        let disk = bootable_disk("from the second sector");
        let path = disk.path().to_str().unwrap();
        let outcome = run(&seabios(name), &["--layout", layout, "--disk", path]).expect_status(0x10 << 1 | 1);
        assert!(outcome.stdout.contains("from the second sector"), "{name}: {outcome:#?}");
        let bytes = fs::read(disk.path()).unwrap();
        assert!(bytes[SECTOR..2 * SECTOR] == bytes[2 * SECTOR..3 * SECTOR], "{name}: it was copied to the third one");
    }
}
