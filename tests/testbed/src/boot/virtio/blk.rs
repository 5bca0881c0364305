//! Disks.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{NOTHING, Part};
use crate::command::output;
use crate::guest::said;
use crate::host::Output;

/// An ext4 file system for hosts to give to guests, by its name there.
pub const FILE_SYSTEM: &str = "disk.ext4";

pub const PART: Part = Part {
    name: "blk",
    modules: &["virtio_blk"],
    before: "cp disk.ext4 disk.img; disk_before=$(md5sum <disk.ext4)",
    arguments: "--disk disk.img,id=carpel-data,queues=2 --disk disk.ext4,ephemeral",
    guest: r#"
mkdir -p /disk
mount -t ext4 /dev/vda /disk
head -c 3000000 /dev/urandom >/disk/random
wrote=$(md5sum </disk/random)
umount /disk
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 -o ro /dev/vda /disk
read=$(md5sum </disk/random)
umount /disk
[ "$read" != "$wrote" ] || echo "guest: disk-file $read"
echo "guest: disk-serial $(cat /sys/block/vda/serial)"
echo "guest: disk-cache $(cat /sys/block/vda/queue/write_cache)"
mount -t ext4 /dev/vdb /disk && echo scratch >/disk/scratch && sync && echo "guest: disk-scratch $(cat /disk/scratch)"
umount /disk
"#,
    after: r#"[ "$disk_before" = "$(md5sum <disk.ext4)" ] && echo "host: disk-unchanged yes"
[ "$disk_before" != "$(md5sum <disk.img)" ] && echo "host: disk-changed yes""#,
    check,
    ..NOTHING
};

/// Makes the file system.
pub fn write_file_system(path: &Path) -> Result<()> {
    output(Command::new("/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(path).arg("16M"))
        .context("Making a file system")?;
    Ok(())
}

/// A file survives that the guest's cache does not have; a disk whose changes are thrown away has them meanwhile.
fn check(output: &Output) -> Result<()> {
    let told = |key| said(&output.text, key).next().unwrap_or_default();
    ensure!(told("disk-file").len() > 32, "The guest did not read what it wrote");
    ensure!(told("disk-serial") == "carpel-data", "The serial number is {:?}", told("disk-serial"));
    ensure!(told("disk-cache") == "write back", "The disk's cache is {:?}", told("disk-cache"));
    ensure!(told("disk-scratch") == "scratch", "The guest could not write to its ephemeral disk");
    for fact in ["host: disk-unchanged yes", "host: disk-changed yes"] {
        ensure!(output.text.lines().any(|line| line == fact), "The host did not say {fact:?}");
    }
    Ok(())
}
