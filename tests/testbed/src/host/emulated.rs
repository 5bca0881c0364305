//! The emulated host: QEMU, the distribution's kernel, and an initramfs that loads KVM and runs the steps.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Architecture;
use crate::initramfs::Initramfs;
use crate::kernel::StockKernel;
use crate::packages::{busybox, install_tools};

/// First process of the host. What it prints before the driver's first mark is the host's own; from there on the kernel is silent,
/// for it would write into the guests' lines.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
dmesg -n 1
for module in /modules/*.ko; do
    [ ! -e "$module" ] || insmod "$module" || echo 'The module does not load'
done
cd /steps
sh ./steps
poweroff -f
"#;

/// What an emulated host is made of.
pub struct Emulated {
    arch: &'static Architecture,
    kernel: StockKernel,
    busybox: PathBuf,
}

impl Emulated {
    /// Gets what is missing: the emulator, a kernel, busybox.
    pub fn obtain(arch: &'static Architecture) -> Result<Self> {
        install_tools()?;
        Ok(Self { arch, kernel: StockKernel::obtain(arch)?, busybox: busybox(arch)? })
    }

    /// The command that boots the host with these files and scripts; `directory` lives as long as the host.
    pub fn command(
        &self,
        directory: &Path,
        files: &[(String, PathBuf)],
        scripts: &[(String, String)],
    ) -> Result<Command> {
        let mut archive = Initramfs::with_busybox(&self.busybox);
        archive.bytes("init", 0o755, INIT).modules(self.kernel.modules(self.arch.modules)?);
        for (name, source) in files {
            archive.file(&format!("steps/{name}"), 0o755, source);
        }
        for (name, text) in scripts {
            archive.bytes(&format!("steps/{name}"), 0o644, text.as_str());
        }
        let initrd = directory.join("host.cpio");
        archive.write(&initrd)?;

        let (program, arguments) = self.arch.qemu.split_first().context("An architecture without an emulator")?;
        let mut command = Command::new(program);
        command.args(arguments).args(["-display", "none", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(initrd).args(["-append", self.arch.append]);
        Ok(command)
    }
}
