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

const WAYS: [Way; 2] = [
    Way { name: "vmlinux by PVH", arguments: "-k vmlinux -c 2", says: "booted by pvh" },
    Way { name: "vmlinux by its 64-bit entry", arguments: "-k vmlinux --boot linux", says: "booted by linux" },
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
