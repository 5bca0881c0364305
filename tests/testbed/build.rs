//! Builds the test guests of `resources/payloads` and the benchmark's floor program: with the C compiler alone, since that
//! and rustup are all that a machine must have.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// A directory of `resources/payloads`: the architecture by its Rust name, and what its compiler must be told.
struct Guests {
    arch: &'static str,
    flags: &'static [&'static str],
}

const GUESTS: &[Guests] = &[Guests {
    arch: "x86_64",
    flags: &["-mgeneral-regs-only", "-mno-red-zone", "-fcf-protection=none", "-mcmodel=kernel"],
}];

/// No library, no relocation, nothing that a compiler adds for a hosted program; unused parts of the runtime are left out.
const FREESTANDING: &[&str] = &[
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-main",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-tree-loop-distribute-patterns",
    "-fno-strict-aliasing",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-pic",
    "-ffunction-sections",
    "-fdata-sections",
];
const BARE_LINK: &[&str] =
    &["-nostdlib", "-static", "-no-pie", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096"];

/// A kind of Multiboot image, made of `resources/payloads/x86_64/multiboot`.
struct Multiboot {
    name: &'static str,
    flags: &'static [&'static str],
    link: &'static [&'static str],
    script: &'static str,
}

const MULTIBOOT: &[Multiboot] = &[
    Multiboot { name: "multiboot_elf32", flags: &["-m32", "-mcmodel=32"], link: &[], script: "low.ld" },
    Multiboot { name: "multiboot_elf64", flags: &[], link: &[], script: "high.ld" },
    Multiboot {
        name: "multiboot_flat",
        flags: &["-m32", "-mcmodel=32", "-DADDRESSES"],
        link: &["-Wl,--oformat=binary"],
        script: "low.ld",
    },
];

fn main() {
    let resources = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../../resources");
    let out = PathBuf::from(variable("OUT_DIR"));
    for directory in ["payloads", "bench"] {
        println!("cargo:rerun-if-changed={}", resources.join(directory).display());
    }
    for guests in GUESTS {
        build_guests(guests, &resources.join("payloads").join(guests.arch), &out.join("payloads").join(guests.arch));
    }
    build_multiboot(&resources.join("payloads/x86_64/multiboot"), &out.join("payloads/x86_64"));
    build_bench(&resources.join("bench"), &out);
}

fn build_guests(guests: &Guests, sources: &Path, out: &Path) {
    // A payload whose source is gone must not be found any more.
    let _ = fs::remove_dir_all(out);
    let runtime = sources.join("runtime");
    let objects = out.join("runtime");
    fs::create_dir_all(&objects).unwrap_or_else(|error| panic!("Cannot create {}: {error}", objects.display()));

    let compile = || {
        let mut command = freestanding(guests.arch, guests.flags);
        command.arg("-I").arg(&runtime);
        command
    };
    let mut linked = Vec::new();
    for source in sources_in(&runtime) {
        let object = objects.join(source.with_extension("o").file_name().expect("A source has a name"));
        run(compile().arg("-c").arg(&source).arg("-o").arg(&object));
        linked.push(object);
    }
    for source in sources_in(sources) {
        let image = out.join(source.file_stem().expect("A source has a name"));
        // A payload that is not at the usual address has a script of its own.
        let own_script = source.with_extension("ld");
        let script = if own_script.is_file() { own_script } else { runtime.join("payload.ld") };
        run(compile().args(BARE_LINK).arg("-T").arg(script).arg(&source).args(&linked).arg("-o").arg(image));
    }
}

fn build_multiboot(sources: &Path, out: &Path) {
    let guests = &GUESTS[0];
    for Multiboot { name, flags, link, script } in MULTIBOOT {
        let mut command = freestanding(guests.arch, guests.flags);
        command.args(*flags).args(BARE_LINK).args(*link).arg("-T").arg(sources.join(script));
        run(command.args(sources_in(sources)).arg("-o").arg(out.join(name)));
    }
}

fn freestanding(arch: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(compiler(arch));
    command.args(FREESTANDING).args(flags);
    command
}

/// The floor, which makes x86-64 KVM calls, what loads devices in hosts and guests, and the guest of monitors that boot PVH only.
fn build_bench(sources: &Path, out: &Path) {
    if variable("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        let compile = |source: &str, program: &str, flags: &[&str]| {
            let mut command = Command::new(compiler("x86_64"));
            run(command.args(flags).arg(sources.join(source)).arg("-o").arg(out.join(program)));
        };
        for program in ["floor", "load"] {
            compile(&format!("{program}.c"), program, &["-O2", "-Wall", "-Wextra", "-Werror", "-static"]);
        }
        compile("byte_pvh.S", "byte_pvh", &[BARE_LINK, &["-Wl,-Ttext=0x100000"]].concat());
    }
}

/// The host's own compiler, or Debian's name for the cross compiler.
fn compiler(arch: &str) -> String {
    if variable("HOST").starts_with(arch) { "gcc".into() } else { format!("{arch}-linux-gnu-gcc") }
}

fn sources_in(directory: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("Cannot list {}: {error}", directory.display()));
    let mut sources: Vec<_> = entries
        .map(|entry| entry.expect("A directory entry can be read").path())
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == OsStr::new("c") || extension == OsStr::new("S"))
        })
        .collect();
    sources.sort();
    sources
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("Cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("Cargo sets {name}: {error}"))
}
