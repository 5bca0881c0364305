//! Firmware that boots the stock kernel: SeaBIOS from a disk, with SYSLINUX in the master boot record and on a FAT partition; and qboot,
//! which is handed the kernel.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{carpel, ended_with, step};
use crate::arch::X86_64;
use crate::command::output;
use crate::guest::said;
use crate::host::{Check, Output, Step};
use crate::packages::candidate;

/// Room for the kernel, the initrd and SYSLINUX.
const DISK_SIZE: u64 = 24 << 20;
/// Where the partition starts, in sectors and in bytes.
const PARTITION_SECTOR: u32 = 2048;
const PARTITION: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// The boot record's code and its table of partitions, of which the first entry is used.
const CODE_SIZE: usize = 440;
const TABLE: u64 = 446;
const SIGNATURE: u64 = 510;
/// FAT16, addressed by sector numbers.
const FAT16_LBA: u8 = 0x0E;
const ACTIVE: u8 = 0x80;

/// The kernel's whole command line: nothing of carpel's reaches a kernel that a boot loader starts.
const APPEND: &str = "console=ttyS0 panic=-1 quiet finish=poweroff";

/// The images that the host has: their names there, the packages that they come from, and where they are in these.
const IMAGES: [(&str, &str, &str); 2] =
    [("bios", "seabios", "usr/share/seabios/bios-256k.bin"), ("qboot", "qemu-system-data", "usr/share/qemu/qboot.rom")];

/// The disk's name in the host.
pub const DISK: &str = "bios-disk";

/// Whether a disk can be made on this machine.
pub fn makes_disks() -> bool {
    X86_64.is_native()
}

/// The images, unpacked: their names in the host, and where they are.
pub fn images() -> Result<Vec<(&'static str, PathBuf)>> {
    IMAGES.iter().map(|&(name, package, path)| Ok((name, candidate(package)?.unpacked()?.join(path)))).collect()
}

/// Writes a disk that boots this kernel and initrd.
pub fn write_disk(disk: &Path, kernel: &Path, initrd: &Path) -> Result<()> {
    let [syslinux, common, mtools] = ["syslinux", "syslinux-common", "mtools"].map(|name| candidate(name)?.unpacked());
    let (syslinux, common, mtools) = (syslinux?, common?, mtools?);
    let file = File::create(disk).context("Creating a disk")?;
    file.set_len(DISK_SIZE)?;
    let code = fs::read(common.join("usr/lib/syslinux/mbr/mbr.bin")).context("Reading SYSLINUX's boot record")?;
    ensure!(code.len() <= CODE_SIZE, "SYSLINUX's boot record has {} bytes", code.len());
    file.write_all_at(&code, 0)?;
    file.write_all_at(&partition(), TABLE)?;
    file.write_all_at(&[0x55, 0xAA], SIGNATURE)?;

    // SYSLINUX calls mtools, which are here under their own names.
    let tools = [syslinux.join("usr/bin"), mtools.join("usr/bin")];
    let path = env::join_paths(tools.into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())))?;
    let run = |program: &str, arguments: &[&str]| {
        // mtools would complain that no whole tracks fit the partition.
        let variables = [format!("PATH={}", path.display()), "MTOOLS_SKIP_CHECK=1".to_owned()];
        output(Command::new("env").args(variables).arg(program).args(arguments)).map(drop)
    };
    let (image, whole) = (format!("{}@@{PARTITION}", disk.display()), disk.display().to_string());
    let sectors = ((DISK_SIZE - PARTITION) / SECTOR).to_string();
    let hidden = PARTITION_SECTOR.to_string();
    run("mformat", &["-i", &image, "-T", &sectors, "-h", "16", "-s", "63", "-H", &hidden, "::"])?;
    run("syslinux", &["--install", "--offset", &PARTITION.to_string(), &whole])?;
    let settings = disk.with_extension("cfg");
    fs::write(&settings, format!("DEFAULT linux\nLABEL linux\nKERNEL /bzimage\nINITRD /initrd\nAPPEND {APPEND}\n"))?;
    for (source, name) in [(kernel, "bzimage"), (initrd, "initrd"), (&settings, "syslinux.cfg")] {
        run("mcopy", &["-i", &image, &source.display().to_string(), &format!("::/{name}")])?;
    }
    Ok(())
}

fn partition() -> [u8; 16] {
    let mut entry = [0; 16];
    (entry[0], entry[4]) = (ACTIVE, FAT16_LBA);
    entry[8..12].copy_from_slice(&PARTITION_SECTOR.to_le_bytes());
    entry[12..].copy_from_slice(&(((DISK_SIZE - PARTITION) / SECTOR) as u32).to_le_bytes());
    entry
}

/// SeaBIOS says who it is, boots the disk, and the kernel of the disk comes up with all that the firmware told it of the machine.
pub fn boots_a_disk() -> Step {
    let check: Check = Box::new(|guest| {
        for text in ["SeaBIOS (version ", "Booting from Hard Disk", "SYSLINUX "] {
            ensure!(guest.text.contains(text), "The console does not say {text:?}");
        }
        knows_its_machine(guest)
    });
    let script = carpel("--firmware bios --disk bios-disk -c 2 -m 512M");
    step("SeaBIOS, SYSLINUX and the stock kernel from a disk", script, check)
}

/// qboot starts the kernel that it is handed in parts: by its setup code, in real mode.
pub fn starts_a_kernel() -> Step {
    let script = carpel("--firmware qboot -k bzImage -i guest.cpio -c 2 -m 512M -a 'quiet finish=poweroff'");
    step("qboot and the stock kernel that it is handed", script, Box::new(knows_its_machine))
}

/// The guest found both CPUs by the firmware's tables, and how to power off.
fn knows_its_machine(guest: &Output) -> Result<()> {
    ended_with(guest, 0)?;
    let cpus: Vec<_> = said(&guest.text, "cpus").collect();
    ensure!(cpus == ["2"], "The guest says {cpus:?} for its CPUs");
    Ok(())
}
