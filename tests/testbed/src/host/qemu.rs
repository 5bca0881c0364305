//! Which QEMU emulates a host, chosen by what it can do, and what CPU it is told to emulate.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::arch::{Architecture, Emulator, SOUND_NESTED_PAGING};
use crate::command::output;
use crate::packages::{Backport, backport, candidate, install};

/// Where the QEMU of the emulated x86-64 host comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Origin {
    /// This machine's own, installed from its release where it is missing.
    Installed,
    /// The one of the release's backports, unpacked into the cache.
    Fetched,
}

/// A QEMU that runs on this machine.
#[derive(Debug)]
pub struct Qemu {
    command: Vec<String>,
    libraries: Option<String>,
    cpu: &'static str,
    version: String,
    origin: Origin,
}

impl Qemu {
    /// The QEMU for hosts of an architecture: the one that was `asked` for, else this machine's own, since the other loses guests
    /// more often than an old one without nested paging loses anything (docs/testing.md); the other where that cannot be installed.
    pub fn obtain(arch: &Architecture, asked: Option<Origin>) -> Result<Self> {
        let emulator = &arch.emulator;
        // A CPU that is the same for every version needs no particular one.
        if emulator.cpu == emulator.cpu_of_old {
            return Self::installed(emulator);
        }
        match asked {
            Some(Origin::Installed) => Self::installed(emulator),
            Some(Origin::Fetched) => Self::fetched(emulator),
            // Of two errors, the first has a remedy.
            None => Self::installed(emulator).or_else(|err| Self::fetched(emulator).map_err(|_| err)),
        }
    }

    /// Those that a run of everything uses: this machine's own, and the fetched one where that differs.
    pub fn all(arch: &Architecture) -> &'static [Origin] {
        let emulator = &arch.emulator;
        let both = emulator.cpu != emulator.cpu_of_old && !has_sound(emulator);
        if both { &[Origin::Fetched, Origin::Installed] } else { &[Origin::Installed] }
    }

    fn installed(emulator: &Emulator) -> Result<Self> {
        install(&[emulator.package])?;
        let version = installed_version(emulator)
            .with_context(|| format!("The package {} has no {} that runs", emulator.package, emulator.program))?;
        let command = vec![emulator.program.to_owned()];
        Ok(Self { command, libraries: None, cpu: cpu(emulator, &version), version, origin: Origin::Installed })
    }

    fn fetched(emulator: &Emulator) -> Result<Self> {
        let Backport { root, version } =
            backport(emulator.package, is_other_emulator, |version| is_sound(Some(version)))?;
        let program = root.join("usr/bin").join(emulator.program);
        let libraries = libraries(&root)?;
        ensure_linked(&program, &libraries)?;
        let mut command = vec![program.display().to_string()];
        for data in [root.join("usr/share"), "/usr/share".into()] {
            for directory in ["qemu", "seabios"].map(|name| data.join(name)).iter().filter(|path| path.is_dir()) {
                command.extend(["-L".to_owned(), directory.display().to_string()]);
            }
        }
        Ok(Self { command, libraries: Some(libraries), cpu: cpu(emulator, &version), version, origin: Origin::Fetched })
    }

    /// Where it comes from, as a word.
    pub fn kind(&self) -> &'static str {
        match self.origin {
            Origin::Installed => "installed",
            Origin::Fetched => "fetched",
        }
    }

    /// The command that starts it with the CPU of a host.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(["-cpu", self.cpu]);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }
}

impl fmt::Display for Qemu {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let origin = match self.origin {
            Origin::Installed => "as installed",
            Origin::Fetched => "from the backports, in the cache",
        };
        write!(out, "QEMU {} {origin}, with -cpu {}", self.version, self.cpu)
    }
}

/// Upgrades of installed packages that this QEMU does not need: other machines' emulators and tools.
fn is_other_emulator(package: &str) -> bool {
    let needed = ["qemu-system-x86", "qemu-system-common", "qemu-system-data"];
    package.starts_with("qemu-") && !needed.contains(&package)
}

/// The version of the program of the search path.
fn installed_version(emulator: &Emulator) -> Option<String> {
    let text = output(Command::new(emulator.program).arg("--version")).ok()?;
    let version = text.lines().next()?.strip_prefix("QEMU emulator version ")?;
    version.split(' ').next().map(str::to_owned)
}

/// Whether this machine has a sound one, or would if its release's were installed.
fn has_sound(emulator: &Emulator) -> bool {
    let own = installed_version(emulator).or_else(|| Some(candidate(emulator.package).ok()?.version));
    is_sound(own.as_deref())
}

/// Whether it emulates nested paging as it should. A package's version may start with an epoch.
fn is_sound(version: Option<&str>) -> bool {
    version.and_then(major).is_some_and(|major| major >= SOUND_NESTED_PAGING)
}

fn major(version: &str) -> Option<u32> {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok()
}

fn cpu(emulator: &Emulator, version: &str) -> &'static str {
    if is_sound(Some(version)) { emulator.cpu } else { emulator.cpu_of_old }
}

/// Where the loader finds the libraries that were unpacked with the program.
fn libraries(root: &Path) -> Result<String> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let directories = [root.join("usr/lib").join(&triplet), root.join("lib").join(&triplet)];
    let paths = std::env::join_paths(directories).context("A directory in the cache has a colon in its name")?;
    paths.into_string().ok().context("A directory in the cache is not named in UTF-8")
}

/// Whether all its libraries are there: some that were installed when it was unpacked may have been removed since.
fn ensure_linked(program: &Path, libraries: &str) -> Result<()> {
    let text = output(Command::new("ldd").env("LD_LIBRARY_PATH", libraries).arg(program))?;
    let missing: Vec<_> = text.lines().filter_map(|line| line.trim().strip_suffix(" => not found")).collect();
    let (program, missing) = (program.display(), missing.join(", "));
    ensure!(
        missing.is_empty(),
        "{program} lacks {missing}: remove its directory from the cache, and it is fetched again"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{AARCH64, X86_64, X86_64_NESTED_PAGING};

    #[test]
    fn the_version_decides_how_the_host_pages_its_guests() {
        for (version, expected) in [
            ("7.2.22", "EPYC,-npt"),
            ("1:7.2+dfsg-7+deb12u18", "EPYC,-npt"),
            ("9.2.0", "EPYC,-npt"),
            ("10.0.2", "EPYC"),
            ("1:10.0.2+ds-2+deb13u1~bpo12+1", "EPYC"),
            ("11.0.50", "EPYC"),
            ("nonsense", "EPYC,-npt"),
        ] {
            assert_eq!(cpu(&X86_64.emulator, version), expected, "{version}");
        }
        assert_eq!(cpu(&X86_64_NESTED_PAGING.emulator, "7.2.22"), "EPYC");
        assert_eq!(cpu(&AARCH64.emulator, "7.2.22"), "max");
    }

    #[test]
    fn an_emulator_is_fetched_without_those_of_other_machines() {
        let packages = ["qemu-system-x86", "qemu-system-arm", "qemu-utils", "qemu-system-data", "libfdt1", "seabios"];
        let fetched: Vec<_> = packages.into_iter().filter(|package| !is_other_emulator(package)).collect();
        assert_eq!(fetched, ["qemu-system-x86", "qemu-system-data", "libfdt1", "seabios"]);
    }

    #[test]
    fn what_was_unpacked_is_loaded_with_its_own_libraries() {
        let qemu = Qemu {
            command: ["/c/qemu", "-L", "/c/data"].map(str::to_owned).to_vec(),
            libraries: Some("/c/lib".to_owned()),
            cpu: "EPYC",
            version: "10.0.2".to_owned(),
            origin: Origin::Fetched,
        };
        let command = qemu.command();
        assert_eq!(crate::command::shown(&command), "/c/qemu -L /c/data -cpu EPYC");
        assert!(command.get_envs().any(|(name, value)| name == "LD_LIBRARY_PATH" && value == Some("/c/lib".as_ref())));
        assert_eq!(qemu.to_string(), "QEMU 10.0.2 from the backports, in the cache, with -cpu EPYC");
    }
}
