//! Guests of our own: the machine as its device tree tells it, and every form of kernel where its layout wants it.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::super::{ended_with, step};
use crate::arch::Architecture;
use crate::host::{Host, Output, Step};
use crate::payload;

const FILES: [&str; 4] = ["machine.image", "hello.flat", "hello.elf", "bss.flat"];

/// A layout, and where it has which guest start.
struct Starts {
    layout: &'static str,
    /// Arguments of `carpel run`, and the address.
    guests: &'static [(&'static str, u64)],
}

/// An ELF file names its address itself, in RAM of both layouts if there is enough.
const MEMORY: u64 = 1536;
const ELF: (&str, u64) = ("-k hello.elf", 0x9000_0000);
const STARTS: [Starts; 2] = [
    Starts {
        layout: "crosvm",
        guests: &[
            ("-k machine.image", 0x8000_0000),
            ("-k hello.flat", 0x8000_0000),
            ("--firmware hello.flat", 0x8020_0000),
            ELF,
        ],
    },
    Starts {
        layout: "virt",
        guests: &[
            ("-k machine.image", 0x4020_0000),
            ("-k hello.flat", 0x4008_0000),
            ("-k bss.flat -i bss.flat", 0x4008_0000),
            ELF,
        ],
    },
];

/// The images.
pub struct Payloads(PathBuf);

impl Payloads {
    /// Compiles them.
    pub fn obtain() -> Result<Self> {
        payload::aarch64().map(Self)
    }

    /// Puts them into the host, under the names that the steps use.
    pub fn give(&self, host: &mut Host) {
        for file in FILES {
            host.file(file, &self.0.join(file));
        }
    }
}

/// A step for each layout, whose guests take less than a second each.
pub fn steps(arch: &'static Architecture) -> impl Iterator<Item = Step> {
    let gic = arch.gic.unwrap_or_default();
    STARTS.iter().map(move |starts| {
        let Starts { layout, guests } = starts;
        let expected = format!("-a 'mem={MEMORY} cpus=2 gic={gic}'");
        let run = |(arguments, _): &(&str, u64)| {
            let expected = if arguments.contains("machine") { expected.as_str() } else { "" };
            format!("./carpel run --layout {layout} -c 2 -m {MEMORY}M {arguments} {expected} || exit")
        };
        let script = guests.iter().map(run).collect::<Vec<_>>().join("\n");
        step(&format!("payloads, {layout}"), script, Box::new(|output| check(output, starts.guests)))
    })
}

/// Each guest passed all its checks, at its address.
fn check(output: &Output, guests: &[(&str, u64)]) -> Result<()> {
    ended_with(output, 0)?;
    ensure!(!output.text.contains("FAILED"), "A check failed");
    let starts: Vec<_> = output.text.lines().filter_map(|line| line.split_once(" from 0x")).collect();
    let expected: Vec<_> = guests.iter().map(|(_, start)| format!("{start:x}")).collect();
    ensure!(starts.iter().map(|(_, start)| *start).eq(&expected), "They start at {starts:?}, not at {expected:?}");
    let passed = output.text.matches("all passed").count();
    ensure!(passed == guests.len(), "{passed} guests passed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_elsewhere_or_one_that_fails_is_noticed() {
        let judge = |text: &str| {
            let output = Output { text: text.to_owned(), ..Output::default() };
            check(&output, &[("", 0x4008_0000)]).map_err(|error| error.to_string())
        };
        assert_eq!(judge("Hello from 0x40080000\nok x\nall passed\n"), Ok(()));
        assert!(judge("Hello from 0x40000000\nall passed\n").unwrap_err().contains("start at"));
        assert!(judge("Hello from 0x40080000\nFAILED x: 0x1\n").unwrap_err().contains("failed"));
        assert!(judge("Hello from 0x40080000\n").unwrap_err().contains("0 guests"));
    }
}
