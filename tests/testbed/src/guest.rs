//! The guests' side: an initrd whose init tells what it sees, then ends as the kernel command line says.

use std::path::Path;

use anyhow::Result;

use crate::initramfs::Initramfs;

/// Loads its modules, runs what `parts=` names, and prints facts as lines `guest: KEY VALUE`, which no message of the kernel may
/// interrupt. The kernel hands its unknown parameters `parts=` and `finish=` on as variables.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
dmesg -n 1
for module in /modules/*.ko; do
    [ ! -e "$module" ] || insmod "$module" || echo "guest: $module does not load"
done
if [ "$finish" = shell ]; then
    echo "guest: up"
    exec setsid cttyhack sh
fi
echo "guest: release $(uname -r)"
echo "guest: cpus $(nproc)"
echo "guest: memory $(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
if [ -e /blob ]; then
    echo "guest: blob $(md5sum < /blob)"
fi
while IFS= read -r line; do
    echo "guest: iomem $line"
done < /proc/iomem
for part in $(echo "$parts" | tr , ' '); do
    sh "/parts/$part"
done
echo "guest: up"
case $finish in
    halt) halt -f ;;
    reboot) reboot -f ;;
    wait) sleep 3600 ;;
    *) poweroff -f ;;
esac
"#;

/// The guests' initrd, to which modules may be added, and scripts in /parts.
pub fn initrd(busybox: &Path) -> Initramfs {
    let mut archive = Initramfs::with_busybox(busybox);
    archive.bytes("init", 0o755, INIT);
    archive
}

/// Writes the guests' initrd to `path`; with a blob, its init also prints that file's MD5 sum.
pub fn write_initrd(path: &Path, busybox: &Path, blob: Option<&Path>) -> Result<()> {
    let mut archive = initrd(busybox);
    if let Some(blob) = blob {
        archive.file("blob", 0o644, blob);
    }
    archive.write(path)
}

/// What the guest said of `key`: the rest of the line after `guest: KEY `, for each line that has it.
pub fn said<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.strip_prefix("guest: ")?.strip_prefix(key)?.strip_prefix(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_match() {
        let text = "guest: cpus 4\nguest: cpusets 9\nnot guest: cpus 1\nguest: iomem a : b\nguest: iomem c : d\n";
        assert_eq!(said(text, "cpus").collect::<Vec<_>>(), ["4"]);
        assert_eq!(said(text, "iomem").collect::<Vec<_>>(), ["a : b", "c : d"]);
    }
}
