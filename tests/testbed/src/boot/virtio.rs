//! The virtio devices under the stock kernel's own drivers, the same on every architecture.
//!
//! A device is a [`Part`] in a file of its own, and a line in [`PARTS`].

mod balloon;
mod blk;
mod console;
mod net;
mod rng;
mod vsock;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{ended_with, step};
use crate::arch::Architecture;
use crate::compile::{compiler, run};
use crate::guest;
use crate::host::{Check, Output, Step};
use crate::kernel::StockKernel;
use crate::workspace;

/// One guest may have to do every part, on a busy machine whose emulated host takes a minute for each.
const LIMIT: Duration = Duration::from_mins(8);

/// Every device.
pub const PARTS: &[Part] = &[balloon::PART, blk::PART, net::PART, rng::PART, vsock::PART, console::PART];

/// How a guest and its host use a device.
pub struct Part {
    /// Its name, without spaces.
    pub name: &'static str,
    /// The guest's modules, as far as they are modules; those that they depend on come by themselves.
    pub modules: &'static [&'static str],
    /// What the host does before the guest runs, for `sh`.
    pub before: &'static str,
    /// Where the guest's input comes from, as a redirection of `sh`: one part of all, at most, has any.
    pub stdin: &'static str,
    /// Arguments of `carpel run`.
    pub arguments: &'static str,
    /// What the guest does, for `sh`. It prints facts as lines `guest: KEY VALUE`.
    pub guest: &'static str,
    /// What the host does while the guest runs, for `sh`: `$carpel` is carpel's process, the file `console` what the guest has
    /// printed so far, and `guest_says TEXT` waits until that has a line with TEXT. It prints facts as lines `host: KEY VALUE`.
    pub meanwhile: &'static str,
    /// What the host does after the guest has ended, for `sh`.
    pub after: &'static str,
    /// Judges what both have printed.
    pub check: fn(&Output) -> Result<()>,
}

/// A part that does nothing, to take what is not said from.
pub const NOTHING: Part = Part {
    name: "",
    modules: &[],
    before: "",
    stdin: "",
    arguments: "",
    guest: "",
    meanwhile: "",
    after: "",
    check: |_| Ok(()),
};

/// A directory of the guest's own, for guests of one host leave files behind; and what the host's scripts can call.
const PREPARE: &str = r#"
rm -rf scratch
mkdir scratch
cd scratch
for file in ../*; do
    [ "$file" = ../scratch ] || ln -s "$file" .
done
guest_says() {
    while ! grep -q -- "$1" console; do
        kill -0 "$carpel" 2>/dev/null || return 1
        sleep 0.1
    done
}
"#;

/// What the host needs beside carpel and the kernel.
pub const FILES: [&str; 3] = [INITRD, RELAY, blk::FILE_SYSTEM];
const INITRD: &str = "virtio.cpio";
const RELAY: &str = "relay";

/// Writes [`FILES`] to a directory: the initrd of a guest that can do every part, the program for sockets that guest and host
/// have, and the guest's disk.
pub fn write_files(arch: &Architecture, directory: &Path, busybox: &Path, kernel: &StockKernel) -> Result<()> {
    blk::write_file_system(&directory.join(blk::FILE_SYSTEM))?;
    let relay = directory.join(RELAY);
    compile_relay(arch, &relay)?;
    write_initrd(&directory.join(INITRD), busybox, kernel, &relay)
}

fn compile_relay(arch: &Architecture, program: &Path) -> Result<()> {
    let mut command = Command::new(compiler(arch.name, "gcc"));
    command.args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o"]).arg(program);
    run(command.arg(workspace::root().join("resources/guest/relay.c")))
}

fn write_initrd(path: &Path, busybox: &Path, kernel: &StockKernel, relay: &Path) -> Result<()> {
    let mut archive = guest::initrd(busybox);
    archive.file("bin/relay", 0o755, relay);
    let modules: Vec<_> = ["virtio_mmio"].iter().chain(PARTS.iter().flat_map(|part| part.modules)).copied().collect();
    archive.modules(kernel.modules(&modules)?);
    for part in PARTS {
        archive.bytes(&format!("parts/{}", part.name), 0o644, part.guest);
    }
    archive.write(path)
}

/// A guest for each part.
pub fn each(arch: &'static Architecture, kernel: &'static str) -> impl Iterator<Item = Step> {
    PARTS
        .iter()
        .map(move |part| guest_with(&format!("virtio: {}", part.name), arch, kernel, "", std::slice::from_ref(part)))
}

/// One guest with all parts.
pub fn together(arch: &'static Architecture, kernel: &'static str, layout: &str) -> Step {
    let name = format!("virtio: all devices in one guest, {layout}");
    guest_with(&name, arch, kernel, &format!("--layout {layout}"), PARTS)
}

fn guest_with(name: &str, arch: &'static Architecture, kernel: &str, machine: &str, parts: &'static [Part]) -> Step {
    let of_all = |what: fn(&Part) -> &str| parts.iter().map(what).filter(|text| !text.is_empty()).collect::<Vec<_>>();
    let append = format!("{} parts={} finish=poweroff", arch.guest_append, of_all(|part| part.name).join(","));
    let script = format!(
        "{PREPARE}\n{before}\n\
         ./carpel run -k {kernel} -i {INITRD} {machine} {arguments} -a '{append}' <{stdin} >console 2>&1 &\n\
         carpel=$!\n\
         {meanwhile}\n\
         wait $carpel\n\
         status=$?\n\
         cat console\n\
         {after}\n\
         exit $status\n",
        before = of_all(|part| part.before).join("\n"),
        stdin = of_all(|part| part.stdin).first().unwrap_or(&"/dev/null"),
        arguments = of_all(|part| part.arguments).join(" "),
        meanwhile = of_all(|part| part.meanwhile).join("\n"),
        after = of_all(|part| part.after).join("\n"),
    );
    let check: Check = Box::new(move |output| {
        ended_with(output, 0)?;
        parts.iter().try_for_each(|part| (part.check)(output).with_context(|| format!("Device {}", part.name)))
    });
    Step { limit: LIMIT, ..step(name, script, check) }
}
