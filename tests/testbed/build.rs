//! Builds the test guests of `resources/payloads` for the architecture that the testbed is built for, and on x86-64 the benchmark's floor
//! program: with the C compiler alone, since that and rustup are all that a machine must have. Guests that need a cross compiler are built
//! when they are wanted.

#[path = "src/compile.rs"]
mod compile;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use compile::{AARCH64, BARE_LINK, X86_64, build_guests, compiler, freestanding, run, sources_in};

/// An image without the runtime, made of a directory of `resources/payloads/x86_64`.
struct Special {
    name: &'static str,
    sources: &'static str,
    flags: &'static [&'static str],
    link: &'static [&'static str],
    script: &'static str,
}

const FLAT: &[&str] = &["-Wl,--oformat=binary"];
const SPECIAL: &[Special] = &[
    Special {
        name: "multiboot_elf32",
        sources: "multiboot",
        flags: &["-m32", "-mcmodel=32"],
        link: &[],
        script: "low.ld",
    },
    Special { name: "multiboot_elf64", sources: "multiboot", flags: &[], link: &[], script: "high.ld" },
    Special {
        name: "multiboot_flat",
        sources: "multiboot",
        flags: &["-m32", "-mcmodel=32", "-DADDRESSES"],
        link: FLAT,
        script: "low.ld",
    },
    Special {
        name: "boot_sector",
        sources: "boot_sector",
        flags: &["-m32", "-mcmodel=32"],
        link: FLAT,
        script: "boot_sector.ld",
    },
    Special { name: "bzimage", sources: "bzimage", flags: &["-m32", "-mcmodel=32"], link: FLAT, script: "bzimage.ld" },
];

fn main() -> Result<()> {
    let resources = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../resources");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for directory in ["payloads", "bench"] {
        println!("cargo:rerun-if-changed={}", resources.join(directory).display());
    }
    let guests = if env::var("CARGO_CFG_TARGET_ARCH")? == AARCH64.arch { &AARCH64 } else { &X86_64 };
    let (sources, images) = (resources.join("payloads").join(guests.arch), out.join("payloads").join(guests.arch));
    build_guests(guests, &sources, &images)?;
    if guests.arch == X86_64.arch {
        build_special(&sources, &images)?;
        build_bench(&resources.join("bench"), &out)?;
    }
    Ok(())
}

fn build_special(payloads: &Path, out: &Path) -> Result<()> {
    for Special { name, sources, flags, link, script } in SPECIAL {
        let sources = payloads.join(sources);
        let mut command = freestanding(&X86_64);
        command.args(*flags).args(BARE_LINK).args(*link).arg("-T").arg(sources.join(script));
        run(command.args(sources_in(&sources)?).arg("-o").arg(out.join(name)))?;
    }
    Ok(())
}

/// The floor, which makes x86-64 KVM calls, what loads devices in hosts and guests, and the guest of monitors that boot PVH only.
fn build_bench(sources: &Path, out: &Path) -> Result<()> {
    let compile = |source: &str, program: &str, flags: &[&str]| {
        let mut command = Command::new(compiler("x86_64", "gcc"));
        run(command.args(flags).arg(sources.join(source)).arg("-o").arg(out.join(program)))
    };
    for program in ["floor", "load"] {
        compile(&format!("{program}.c"), program, &["-O2", "-Wall", "-Wextra", "-Werror", "-static"])?;
    }
    compile("byte_pvh.S", "byte_pvh", &[BARE_LINK, &["-Wl,-Ttext=0x100000"]].concat())
}
