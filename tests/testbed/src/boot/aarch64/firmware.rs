//! The distribution's firmware, to its prompt and to what a disk has for it, in the layout that it was built for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::super::{ended_with, step};
use crate::command::run;
use crate::host::{Host, Output, Step};
use crate::packages::candidate;

/// edk2 prints its menus a byte at a time, and an emulated host takes milliseconds for each.
const LIMIT: Duration = Duration::from_mins(5);

/// Types an answer when the guest has asked for it, as a person would: what is typed too early, firmware throws away.
const TYPIST: &str = r#"
rm -f typed shown
mkfifo typed
./carpel run @ARGUMENTS@ <typed >shown 2>&1 &
carpel=$!
exec 3>typed
answer() {
    until grep -q "$1" shown; do kill -0 $carpel 2>/dev/null || break; sleep 0.2; done
    printf "$2" >&3
}
@ANSWERS@
wait $carpel
status=$?
cat shown
exit $status
"#;

/// Size of the disk: more than the stock kernel and an initrd, less than FAT16's limit.
const DISK: u64 = 64 << 20;

/// What edk2's shell is told to do with the disk.
const BOOT_SCRIPT: &str = "linux.efi initrd=\\guest.cpio console=ttyAMA0 quiet panic=-1 finish=poweroff\n";

/// The images, and a disk with a FAT volume that has a kernel and an initrd.
pub struct Firmware {
    u_boot: PathBuf,
    edk2: PathBuf,
    disk: PathBuf,
}

impl Firmware {
    /// Gets the images from the distribution's packages, which are the same on every architecture, and makes the disk.
    pub fn obtain(scratch: &Path, kernel: &Path, initrd: &Path) -> Result<Self> {
        let file = |package: &str, path: &str| {
            let file = candidate(package)?.unpacked()?.join(path);
            file.is_file().then_some(file).with_context(|| format!("The package {package} has no {path}"))
        };
        let disk = scratch.join("fat.img");
        let script = scratch.join("boot.nsh");
        fs::write(&script, BOOT_SCRIPT).with_context(|| format!("Writing {}", script.display()))?;
        write_disk(&disk, &[("linux.efi", kernel), ("guest.cpio", initrd), ("boot.nsh", &script)])?;
        Ok(Self {
            disk,
            u_boot: file("u-boot-qemu", "usr/lib/u-boot/qemu_arm64/u-boot.bin")?,
            edk2: file("qemu-efi-aarch64", "usr/share/qemu-efi-aarch64/QEMU_EFI.fd")?,
        })
    }

    /// Puts them into the host, under the names that the steps use.
    pub fn give(&self, host: &mut Host) {
        host.file("u-boot.bin", &self.u_boot).file("QEMU_EFI.fd", &self.edk2).file("fat.img", &self.disk);
    }
}

/// Writes a disk that is one FAT volume with these files, without rights: mtools writes into the image.
fn write_disk(disk: &Path, files: &[(&str, &Path)]) -> Result<()> {
    File::create(disk).and_then(|file| file.set_len(DISK)).with_context(|| format!("Creating {}", disk.display()))?;
    let tools = candidate("mtools")?.unpacked()?.join("usr/bin");
    run(Command::new(tools.join("mformat")).arg("-i").arg(disk).arg("::"))?;
    for (name, source) in files {
        run(Command::new(tools.join("mcopy")).arg("-i").arg(disk).arg(source).arg(format!("::{name}")))?;
    }
    Ok(())
}

/// Each to its prompt, where it is told to look at the disk. U-Boot then powers off; edk2 starts the stock kernel, which does.
pub fn steps() -> Vec<Step> {
    let u_boot = conversation(
        "--firmware u-boot.bin --layout virt -m 256M --disk fat.img",
        &[("Hit any key", "\\n"), ("=> ", "version; virtio scan; virtio info; ls virtio 0; poweroff\\n")],
    );
    let edk2 = conversation(
        "--firmware QEMU_EFI.fd --layout virt -m 512M -c 2 --disk fat.img",
        &[("any other key", "x"), ("Shell>", "fs0:\\r"), ("FS0:.>", "boot\\r")],
    );
    vec![
        talk(
            "U-Boot: its prompt, and a disk",
            u_boot,
            &["=> version", "VirtIO Block Device", "linux.efi", "poweroff ..."],
        ),
        talk(
            "edk2: its shell, and the stock kernel from a disk",
            edk2,
            &["UEFI Interactive Shell", "Shell> fs0:", "guest: cpus 2", "guest: up"],
        ),
    ]
}

/// A script that runs carpel and gives each answer when the text before it has appeared.
fn conversation(arguments: &str, answers: &[(&str, &str)]) -> String {
    let answers: Vec<_> = answers.iter().map(|(text, answer)| format!("answer '{text}' '{answer}'")).collect();
    TYPIST.replace("@ARGUMENTS@", arguments).replace("@ANSWERS@", &answers.join("\n"))
}

/// A step in which the guest says these texts and powers off.
fn talk(name: &str, script: String, says: &'static [&'static str]) -> Step {
    let check = move |output: &Output| {
        ended_with(output, 0)?;
        for text in says {
            ensure!(output.text.contains(text), "It did not say {text:?}");
        }
        Ok(())
    };
    Step { limit: LIMIT, ..step(name, script, Box::new(check)) }
}
