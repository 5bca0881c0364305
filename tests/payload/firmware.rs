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

/// A file of a Debian package, unpacked where that is not installed.
fn packaged(package: &str, path: &str) -> PathBuf {
    if Path::new(path).is_file() {
        return path.into();
    }
    let unpacked = packages::candidate(package).and_then(|package| package.unpacked());
    unpacked.unwrap_or_else(|error| panic!("This test needs the package {package}: {error:#}")).join(&path[1..])
}

fn seabios(name: &str) -> PathBuf {
    packaged("seabios", &format!("/usr/share/seabios/{name}"))
}

fn qboot() -> PathBuf {
    packaged("qemu-system-data", "/usr/share/qemu/qboot.rom")
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
        (4096, &["-i", "/proc/self/exe"], "is for a kernel, and "),
        (4096, &["-k", "/proc/self/exe"], "It is not a bzImage, the only format that firmware takes"),
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

/// The lines of an initial RAM disk that is longer than what `fw_cfg` reads at a time.
fn lines() -> String {
    (0..8000).map(|number| number.to_string()).collect::<Vec<_>>().join("\n")
}

#[test]
fn qboot_starts_a_kernel_with_its_command_line_and_initial_ram_disk() {
    let (kernel, initrd) = (payload::path("bzimage"), file(lines().as_bytes()));
    let given = ["-k", kernel.to_str().unwrap(), "-i", initrd.path().to_str().unwrap(), "-a", "for the kernel"];
    for machine in
        [["--layout", "krun", "-m", "64M"], ["--layout", "crosvm", "-c", "2"], ["--layout", "crosvm", "-m", "5G"]]
    {
        let outcome = run(&qboot(), &[&machine[..], &given].concat()).expect_status(0x10 << 1 | 1);
        assert!(
            outcome.stdout == format!("console=ttyS0 panic=-1 for the kernel\n{}", lines()),
            "{machine:?}: {outcome:#?}"
        );
    }
}

#[test]
fn qboot_starts_a_kernel_alone() {
    let kernel = payload::path("bzimage");
    let outcome = run(&qboot(), &["-k", kernel.to_str().unwrap()]).expect_status(0x10 << 1 | 1);
    assert_eq!(outcome.stdout, "console=ttyS0 panic=-1\n");
}

#[test]
fn a_kernel_that_firmware_cannot_load_is_one_error() {
    let bzimage = fs::read(payload::path("bzimage")).unwrap();
    let with = |at: usize, value: u8| {
        let mut image = bzimage.clone();
        image[at] = value;
        image
    };
    let elf = fs::read(payload::path("hello")).unwrap();
    let errors = [
        (bzimage[..0x26B].to_vec(), "The bzImage is truncated: it has 619 bytes and needs 620"),
        (bzimage[..0x400].to_vec(), "The bzImage is truncated: it has 1024 bytes and needs 1072"),
        (with(0x1F1, 200), "The bzImage is truncated"),
        (with(0x206, 5), "it speaks boot protocol 2.05; 2.06 (Linux 2.6.22) is needed"),
        (with(0x211, 0), "LOADED_HIGH is not set"),
        (elf, "It is not a bzImage, the only format that firmware takes"),
    ];
    for (image, expected) in errors {
        let outcome = run(&qboot(), &["-k", file(&image).path().to_str().unwrap()]).expect_status(2);
        assert!(outcome.stderr.contains(expected) && outcome.stderr.lines().count() == 1, "{outcome:#?}");
    }
}

#[test]
fn an_initial_ram_disk_that_firmware_would_load_over_the_kernel_is_one_error() {
    let (kernel, initrd) = (payload::path("bzimage"), NamedTempFile::new().unwrap());
    let args = ["-m", "64M", "-k", kernel.to_str().unwrap(), "-i", initrd.path().to_str().unwrap()];
    // A MiB for low memory, the kernel's 48 bytes, and two pages.
    let most = (63 << 20) - 48 - 2 * 4096;
    initrd.as_file().set_len(most).unwrap();
    assert!(run(&qboot(), &[&args[..], &["--dry-run"]].concat()).status == 0);
    initrd.as_file().set_len(most + 1).unwrap();
    let outcome = run(&qboot(), &args).expect_status(2);
    assert!(
        outcome.stderr.contains("below 0x4000000, end at 0x4000001") && outcome.stderr.lines().count() == 1,
        "{outcome:#?}"
    );
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
