//! The emulated host: QEMU, the distribution's kernel, and an initramfs that loads KVM and runs the steps.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::qemu::{Origin, Qemu};
use super::watch::BEAT;
use crate::arch::Architecture;
use crate::initramfs::Initramfs;
use crate::kernel::StockKernel;
use crate::packages::busybox;

/// First process of the host. Its console has the kernel's errors and a sign of life now and then. The steps write on a port of their own,
/// so that the kernel's lines and those of guests are never taken for each other. The port appears some time after its driver.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
for module in /modules/*.ko; do
    [ ! -e "$module" ] || insmod "$module" || echo 'The module does not load'
done
while [ ! -c /dev/vport0p1 ]; do sleep 0.1; done
while :; do echo @BEAT@; sleep 10; done &
cd /steps
sh ./steps >/dev/vport0p1 2>&1
poweroff -f
"#;

/// The console on QEMU's standard error; the steps' port on its standard output.
const CHANNELS: &[&str] = &[
    "-serial",
    "file:/dev/stderr",
    "-chardev",
    "file,id=steps,path=/dev/stdout",
    "-device",
    "virtio-serial-pci",
    "-device",
    "virtserialport,chardev=steps",
];

/// What an emulated host is made of.
pub struct Emulated {
    arch: &'static Architecture,
    qemu: Qemu,
    kernel: StockKernel,
    busybox: PathBuf,
}

impl Emulated {
    /// Gets what is missing: the emulator, from where it is `asked` for, a kernel, busybox.
    pub fn obtain(arch: &'static Architecture, asked: Option<Origin>) -> Result<Self> {
        let qemu = Qemu::obtain(arch, asked)?;
        println!("   {qemu}");
        Ok(Self { arch, qemu, kernel: StockKernel::obtain(arch)?, busybox: busybox(arch)? })
    }

    /// The QEMU that it is.
    pub fn describe(&self) -> String {
        self.qemu.to_string()
    }

    /// What tells it from the same host under another QEMU; none where every QEMU emulates the same.
    pub fn kind(&self) -> Option<&'static str> {
        let emulator = &self.arch.emulator;
        (emulator.cpu != emulator.cpu_of_old).then(|| self.qemu.kind())
    }

    /// The command that boots the host with these files and scripts; `directory` lives as long as the host.
    pub fn command(
        &self,
        directory: &Path,
        files: &[(String, PathBuf)],
        scripts: &[(String, String)],
    ) -> Result<Command> {
        let mut archive = Initramfs::with_busybox(&self.busybox);
        archive.bytes("init", 0o755, INIT.replace("@BEAT@", BEAT)).modules(self.kernel.modules(self.arch.modules)?);
        for (name, source) in files {
            archive.file(&format!("steps/{name}"), 0o755, source);
        }
        for (name, text) in scripts {
            archive.bytes(&format!("steps/{name}"), 0o644, text.as_str());
        }
        let initrd = directory.join("host.cpio");
        archive.write(&initrd)?;

        let mut command = self.qemu.command();
        command.args(self.arch.emulator.machine).args(["-display", "none", "-no-reboot", "-nodefaults"]).args(CHANNELS);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(initrd).args(["-append", self.arch.append]);
        Ok(command)
    }
}
