//! Compiling test guests: for the build script, which makes those of a PC, and for tests that need those of another machine.

use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A directory of `resources/payloads`.
pub struct Guests {
    /// The architecture by its Rust name.
    pub arch: &'static str,
    /// What its compiler must be told.
    pub flags: &'static [&'static str],
    /// The images to make of each guest.
    pub forms: &'static [Form],
}

/// A kind of image.
pub struct Form {
    /// What is appended to the guest's name.
    pub suffix: &'static str,
    /// What the compiler must be told for it.
    pub flags: &'static [&'static str],
    /// Whether it is memory's contents alone; otherwise it is an ELF file.
    pub flat: bool,
}

/// PC guests are ELF files.
pub const X86_64: Guests = Guests {
    arch: "x86_64",
    flags: &["-mgeneral-regs-only", "-mno-red-zone", "-fcf-protection=none", "-mcmodel=kernel"],
    forms: &[Form { suffix: "", flags: &[], flat: false }],
};
/// Each guest as an Image, as the same without its header, and as an ELF file; with the MMU off, memory takes no unaligned access.
pub const AARCH64: Guests = Guests {
    arch: "aarch64",
    flags: &["-mgeneral-regs-only", "-mstrict-align"],
    forms: &[
        Form { suffix: ".image", flags: &["-DIMAGE"], flat: true },
        Form { suffix: ".flat", flags: &[], flat: true },
        Form { suffix: ".elf", flags: &[], flat: false },
    ],
};

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
/// What makes a bare image.
pub const BARE_LINK: &[&str] =
    &["-nostdlib", "-static", "-no-pie", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096"];

/// Makes every form of every guest in `sources`, each of one file and of the runtime next to it.
pub fn build_guests(guests: &Guests, sources: &Path, out: &Path) -> Result<()> {
    // A payload whose source is gone must not be found any more.
    let _ = fs::remove_dir_all(out);
    guests.forms.iter().try_for_each(|form| build_form(guests, form, sources, out))
}

fn build_form(guests: &Guests, form: &Form, sources: &Path, out: &Path) -> Result<()> {
    let runtime = sources.join("runtime");
    let objects = out.join(format!("runtime{}", form.suffix));
    fs::create_dir_all(&objects).with_context(|| format!("Creating {}", objects.display()))?;
    let compile = || {
        let mut command = freestanding(guests);
        command.args(form.flags).arg("-I").arg(&runtime);
        command
    };
    let mut linked = Vec::new();
    for source in sources_in(&runtime)? {
        let object = objects.join(source.with_extension("o").file_name().context("A source has a name")?);
        run(compile().arg("-c").arg(&source).arg("-o").arg(&object))?;
        linked.push(object);
    }
    for source in sources_in(sources)? {
        let name = source.file_stem().context("A source has a name")?.to_string_lossy();
        let image = out.join(format!("{name}{}", form.suffix));
        // A payload that is not at the usual address has a script of its own.
        let own_script = source.with_extension("ld");
        let script = if own_script.is_file() { own_script } else { runtime.join("payload.ld") };
        run(compile().args(BARE_LINK).arg("-T").arg(script).arg(&source).args(&linked).arg("-o").arg(&image))?;
        if form.flat {
            run(Command::new(compiler(guests.arch, "objcopy")).args(["-O", "binary"]).arg(&image))?;
        }
    }
    Ok(())
}

/// The compiler for guests of this architecture.
pub fn freestanding(guests: &Guests) -> Command {
    let mut command = Command::new(compiler(guests.arch, "gcc"));
    command.args(FREESTANDING).args(guests.flags);
    command
}

/// This machine's own tool, or Debian's name for that of a cross compiler.
pub fn compiler(arch: &str, tool: &str) -> String {
    if arch == ARCH { tool.to_owned() } else { format!("{arch}-linux-gnu-{tool}") }
}

/// The C and assembler sources in a directory, sorted.
pub fn sources_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("Listing {}", directory.display()))?;
    let mut sources = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    sources.retain(|path| {
        path.extension().is_some_and(|extension| extension == OsStr::new("c") || extension == OsStr::new("S"))
    });
    sources.sort();
    Ok(sources)
}

/// Runs a compiler; its messages are in the error.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("Starting {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
