//! The ways to boot the stock kernel, besides those of the machines' tests: its bzImage, and its ELF by PVH.

use anyhow::ensure;

use super::{APPEND, carpel, ended_with, step};
use crate::host::{Output, Step};

/// A kernel, and what the verbose output must say of how it is booted.
struct Way {
    name: &'static str,
    arguments: &'static str,
    says: &'static str,
}

const WAYS: [Way; 4] = [
    Way { name: "vmlinux by PVH", arguments: "-k vmlinux -c 4,sockets=2,threads=2", says: "booted by pvh" },
    Way { name: "vmlinux.gz by its 64-bit entry", arguments: "-k vmlinux.gz --boot linux", says: "booted by linux" },
    Way {
        name: "bzImage.zst by its own stub",
        arguments: "-k bzImage.zst --cpu x86-64-v2",
        says: "bytes of zstd are unpacked",
    },
    Way { name: "bzImage by PVH, unpacked on the host", arguments: "-k bzImage --boot pvh", says: "booted by pvh" },
];

/// All of them.
pub fn steps() -> impl Iterator<Item = Step> {
    WAYS.iter().map(Way::step)
}

impl Way {
    fn step(&'static self) -> Step {
        let Self { name, arguments, says } = *self;
        let script = carpel(&format!("-v {arguments} -i guest.cpio -a '{APPEND} finish=poweroff'"));
        let check = move |output: &Output| {
            ended_with(output, 0)?;
            for text in [says, "guest: up"] {
                ensure!(output.text.contains(text), "Its output does not contain {text:?}");
            }
            Ok(())
        };
        step(name, script, Box::new(check))
    }
}
