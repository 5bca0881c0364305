//! The tiny Linux kernel: `make tinyconfig` and resources/tiny.config, built once from the distribution's source, then cached.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::arch::Architecture;
use crate::cache;
use crate::command::{md5, output, shown};
use crate::compile::compiler;
use crate::packages::{KERNEL_BUILD, candidate, install, names};
use crate::say::Task;
use crate::workspace;

/// The tiny kernel's files in the cache.
#[derive(Debug)]
pub struct TinyKernel {
    /// Its bootable image, compressed.
    pub image: PathBuf,
    /// The same as an ELF file.
    pub vmlinux: PathBuf,
}

impl TinyKernel {
    /// The kernel of the present fragment and the distribution's present source, built where the cache does not have it.
    pub fn obtain(arch: &Architecture) -> Result<Self> {
        let fragment = workspace::root().join("resources/tiny.config");
        let source = candidate(names()?.source)?.dependency("linux-source-")?;
        let name = format!("tiny-{}-{}-{}", arch.name, source.version, &md5(&fragment)?[..8]);
        let ready = cache::once(&name, |directory| {
            install(KERNEL_BUILD)?;
            if !arch.is_native() {
                install(arch.cross)?;
            }
            source.unpack_into(directory)?;
            build(arch, &fragment, directory)
        })?;
        Ok(Self { image: ready.join("image"), vmlinux: ready.join("vmlinux") })
    }
}

/// Builds in `directory`, which holds the unpacked package of the source, and leaves only the kernel there.
fn build(arch: &Architecture, fragment: &Path, directory: &Path) -> Result<()> {
    let source = directory.join("source");
    fs::create_dir(&source)?;
    let task = Task::start("unpacking the kernel's source");
    // Documentation's own files (those with a capital) stay: its Kconfig and Makefile belong to the build.
    let documentation = "--exclude=*/Documentation/[a-z]*";
    let tar = tarball(&directory.join("usr/src"))?;
    output(
        Command::new("tar").args(["-x", "--strip-components=1", documentation, "-C"]).arg(&source).arg("-f").arg(tar),
    )?;
    task.done();

    output(make(arch, &source).arg("tinyconfig"))?;
    let merge = source.join("scripts/kconfig/merge_config.sh");
    output(Command::new(merge).current_dir(&source).args(["-m", ".config"]).arg(fragment))?;
    output(make(arch, &source).arg("olddefconfig"))?;
    let config = fs::read_to_string(source.join(".config"))?;
    let wanted = fs::read_to_string(fragment)?;
    let dropped = dropped(&wanted, &config);
    ensure!(dropped.is_empty(), "The kernel's configuration does not take: {}", dropped.join(", "));

    compile(make(arch, &source).arg(arch.image.0))?;
    fs::copy(source.join(arch.image.1), directory.join("image"))?;
    fs::copy(source.join("vmlinux"), directory.join("vmlinux"))?;
    fs::write(directory.join("config"), config)?;
    for leftover in [source, directory.join("usr")] {
        fs::remove_dir_all(&leftover).with_context(|| format!("Removing {}", leftover.display()))?;
    }
    Ok(())
}

fn make(arch: &Architecture, source: &Path) -> Command {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    // It is built beside tests, which have limits of time.
    let mut make = Command::new("nice");
    make.arg("make").current_dir(source).arg(format!("-j{jobs}")).arg(format!("ARCH={}", arch.name));
    if !arch.is_native() {
        make.arg(format!("CROSS_COMPILE={}", compiler(arch.name, "")));
    }
    // The kernel's build reads cargo's own variables as its own where both use a name.
    for name in ["MAKEFLAGS", "MFLAGS", "TARGET", "HOST"] {
        make.env_remove(name);
    }
    make
}

/// The archive of the source, also where it lies in a directory of its own (Ubuntu).
fn tarball(directory: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(directory).with_context(|| format!("Reading {}", directory.display()))? {
        let path = entry?.path();
        let is_directory = path.is_dir() && !path.is_symlink();
        if is_directory && let Ok(found) = tarball(&path) {
            return Ok(found);
        }
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(".tar.")) {
            return Ok(path);
        }
    }
    bail!("No archive of the kernel's source in {}", directory.display())
}

/// Settings of the fragment that the final configuration lacks.
fn dropped<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let is_setting = |line: &&str| line.starts_with("CONFIG_") || line.starts_with("# CONFIG_");
    fragment.lines().filter(is_setting).filter(|wanted| !config.lines().any(|line| line == *wanted)).collect()
}

/// Runs make and shows what it is doing; an error holds the last of what it said.
fn compile(make: &mut Command) -> Result<()> {
    /// Lines of make's output that an error repeats.
    const TAIL: usize = 20;

    let mut task = Task::start("building the tiny kernel (some minutes, once)");
    let shown = shown(make);
    // One pipe for both, so that an error stands where it happened.
    let (reader, writer) = std::io::pipe()?;
    let mut child =
        make.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).spawn().context("Starting make")?;
    // The command keeps the pipe's other end open until it is told to forget it.
    make.stdout(Stdio::null()).stderr(Stdio::null());
    let mut tail = Vec::new();
    for line in BufReader::new(reader).lines() {
        let line = line?;
        task.news(line.trim());
        if tail.len() == TAIL {
            tail.remove(0);
        }
        tail.push(line);
    }
    let status = child.wait()?;
    ensure!(status.success(), "{shown} ended with {status}:\n{}", tail.join("\n"));
    task.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_the_configuration_dropped_is_named() {
        let fragment = "# Words.\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=64\n";
        let config = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=8\n";
        assert_eq!(dropped(fragment, config), ["# CONFIG_B is not set", "CONFIG_C=64"]);
    }

    #[test]
    fn the_source_is_found_in_both_distributions_layouts() {
        let root = tempfile::tempdir().unwrap();
        assert!(tarball(root.path()).is_err());
        let inner = root.path().join("linux-source-6.8");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("linux-source-6.8.tar.bz2"), "").unwrap();
        assert_eq!(tarball(root.path()).unwrap(), inner.join("linux-source-6.8.tar.bz2"));
    }
}
