//! Guests that check the machine that they were given: their CPUs, their memory and its addresses.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{carpel, ended_with, step};
use crate::arch::{Architecture, X86_64};
use crate::command::output;
use crate::guest::said;
use crate::host::{Output, Step};
use crate::iomem;

const KERNELS: [&str; 2] = ["bzImage", "vmlinux"];
const LAYOUTS: [&str; 2] = ["krun", "crosvm"];
const CPUS: [u64; 2] = [1, 4];
/// MiB: one that is small, the end of low RAM in each layout, one that needs high RAM in both.
const MEMORIES: [u64; 4] = [256, 3072, 3328, 6144];

/// A guest and its machine.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    pub arch: &'static Architecture,
    pub kernel: &'static str,
    pub layout: &'static str,
    pub cpus: u64,
    /// MiB.
    pub memory: u64,
    /// How the guest's init ends it.
    pub finish: &'static str,
}

/// The stock kernel in every combination, or in those that cover every pair of values; and the tiny kernel, to which the MP table
/// must tell its CPUs, for it knows no ACPI. Without that it cannot power off either.
pub fn steps(binary: &Path, all: bool) -> Vec<Step> {
    let tiny =
        LAYOUTS.map(|layout| Boot { arch: &X86_64, kernel: "tiny", layout, cpus: 2, memory: 256, finish: "reboot" });
    let stock = if all { every_combination() } else { every_pair() };
    stock.into_iter().chain(tiny).map(|boot| boot.step(binary.to_owned())).collect()
}

fn every_combination() -> Vec<Boot> {
    (0..32).map(|n| Boot::stock(n % 2, n / 2 % 2, n / 4 % 2, n / 8)).collect()
}

/// An orthogonal array of strength two.
fn every_pair() -> Vec<Boot> {
    let rows = (0..8).map(|n| (n % 2, n / 2));
    rows.map(|(kernel, memory)| Boot::stock(kernel, kernel ^ (memory & 1), kernel ^ (memory >> 1), memory)).collect()
}

impl Boot {
    fn stock(kernel: usize, layout: usize, cpus: usize, memory: usize) -> Self {
        let [kernel, layout] = [KERNELS[kernel], LAYOUTS[layout]];
        Self { arch: &X86_64, kernel, layout, cpus: CPUS[cpus], memory: MEMORIES[memory], finish: "poweroff" }
    }

    /// The test; `binary` is a carpel that runs here and prints the map.
    pub fn step(self, binary: PathBuf) -> Step {
        let Self { arch, kernel, layout, cpus, memory, finish } = self;
        let name = format!("{kernel}, {layout}, {cpus} vCPU, {memory} MiB: its machine");
        let machine = self.machine();
        let script = carpel(&format!("-k {kernel} -i guest.cpio {machine} -a '{} finish={finish}'", arch.guest_append));
        step(&name, script, Box::new(move |output| self.check(&binary, output)))
    }

    fn machine(self) -> String {
        format!("--layout {} -c {} -m {}M", self.layout, self.cpus, self.memory)
    }

    /// The guest came up with all its CPUs and memory, at the addresses of `carpel map`, and ended as asked.
    fn check(self, binary: &Path, guest: &Output) -> Result<()> {
        ended_with(guest, 0)?;
        let cpus = number(guest, "cpus")?;
        ensure!(cpus == self.cpus, "The guest has {cpus} CPUs online");
        // MemTotal lacks what the kernel keeps for its own image, its page structs and its bounce buffers (64 MiB from 4 GiB up).
        let memory = number(guest, "memory")? / 1024;
        let least = self.memory * 7 / 8 - 64;
        ensure!((least..=self.memory).contains(&memory), "The guest has {memory} MiB");
        let iomem: Vec<_> = said(&guest.text, "iomem").collect();
        let map = output(
            Command::new(binary)
                .args(["map", "--format", "json", "--arch", self.arch.name])
                .args(self.machine().split(' ')),
        )?;
        iomem::agrees(&iomem.join("\n"), &map)
    }
}

fn number(guest: &Output, key: &str) -> Result<u64> {
    let value = said(&guest.text, key).next().with_context(|| format!("The guest did not say its {key}"))?;
    value.parse().with_context(|| format!("The guest says {value:?} for its {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Each boot's values as numbered factors.
    fn pairs(boots: &[Boot]) -> HashSet<[(usize, String); 2]> {
        let factors = |boot: &Boot| {
            let values =
                [boot.kernel.to_owned(), boot.layout.to_owned(), boot.cpus.to_string(), boot.memory.to_string()];
            values.into_iter().enumerate().collect::<Vec<_>>()
        };
        let of_one = |boot| {
            let values = factors(boot);
            let mut pairs = Vec::new();
            for (index, first) in values.iter().enumerate() {
                pairs.extend(values[index + 1..].iter().map(|second| [first.clone(), second.clone()]));
            }
            pairs
        };
        boots.iter().flat_map(of_one).collect()
    }

    #[test]
    fn the_subset_has_every_pair_that_all_have() {
        assert_eq!(every_combination().len(), 32);
        assert_eq!(pairs(&every_pair()), pairs(&every_combination()));
    }

    #[test]
    fn a_guest_with_a_cpu_too_few_or_half_its_memory_fails() {
        let boot = Boot::stock(0, 0, 1, 0);
        let check = |text: &str, status| {
            let guest = Output { status, text: text.to_owned(), ..Output::default() };
            boot.check(Path::new("/nonexistent"), &guest).unwrap_err().to_string()
        };
        assert!(check("guest: cpus 3\nguest: memory 200000\n", 0).contains("3 CPUs"));
        assert!(check("guest: cpus 4\nguest: memory 131072\n", 0).contains("128 MiB"));
        assert!(check("", 0).contains("did not say its cpus"));
        assert!(check("guest: cpus 4\nguest: memory 200000\n", 121).contains("121"));
    }
}
