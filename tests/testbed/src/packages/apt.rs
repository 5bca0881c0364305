//! What apt would fetch, and unpacking it into the cache without installing anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::update;
use crate::arch::Architecture;
use crate::cache;
use crate::command::{output, shown};
use crate::say::Task;

/// What apt says of each list of packages: its release, its component and where it comes from.
const TARGET: &str = "$(CODENAME) $(COMPONENT) $(REPO_URI)";
/// The distribution's own keys, where its sources name them (package debian-archive-keyring).
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A version of a package that apt would fetch now.
#[derive(Debug)]
pub struct Candidate {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Bytes to download.
    pub size: u64,
    depends: String,
    apt: Apt,
}

/// A view of the distribution's packages: this machine's own, or a private one with lists and archives in the cache, which needs no
/// rights and changes nothing on the machine.
#[derive(Clone, Debug)]
struct Apt {
    private: Option<Private>,
}

#[derive(Clone, Debug)]
struct Private {
    /// What its packages are, for people.
    what: &'static str,
    /// What its unpacked packages are called by beside their names and versions.
    suffix: &'static str,
    /// Options of apt.
    options: Vec<String>,
}

impl Apt {
    /// The packages of an architecture.
    fn of(arch: &Architecture) -> Result<Self> {
        if arch.is_native() {
            return Ok(Self { private: None });
        }
        let name = arch.package;
        let options = vec![format!("APT::Architecture={name}"), format!("APT::Architectures={name}")];
        Self::private(
            "packages of another architecture",
            name,
            &cache::directory()?.join(format!("apt-{name}")),
            options,
        )
    }

    /// This machine's release and its backports, which need not be among the machine's own sources: they are on the same mirror.
    fn with_backports() -> Result<(Self, String)> {
        let own = Self { private: None };
        let list = || output(own.command("apt-get").args(["indextargets", "--format", TARGET, "Created-By: Packages"]));
        let text = list()?;
        let text = if text.trim().is_empty() { own.update().and_then(|()| list())? } else { text };
        let release = codename()?;
        let mirror =
            mirror_of(&release, &text).with_context(|| format!("apt has no source of {release}'s packages"))?;
        let directory = cache::directory()?.join("apt-backports");
        let sources = directory.join("sources.list");
        fs::create_dir_all(&directory).with_context(|| format!("Creating {}", directory.display()))?;
        let backports = format!("{release}-backports");
        fs::write(&sources, sources_list(mirror, &[&release, &backports], Path::new(KEYRING).exists()))
            .with_context(|| format!("Writing {}", sources.display()))?;
        let options = vec![format!("Dir::Etc::SourceList={}", sources.display()), "Dir::Etc::SourceParts=-".to_owned()];
        Ok((Self::private("the release's backports", "", &directory, options)?, backports))
    }

    fn private(what: &'static str, suffix: &'static str, directory: &Path, mut options: Vec<String>) -> Result<Self> {
        // apt makes neither by itself.
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(directory.join(part)).with_context(|| format!("Creating {part} for apt"))?;
        }
        options.push(format!("Dir::State::Lists={}", directory.join("lists").display()));
        options.push(format!("Dir::Cache={}", directory.display()));
        Ok(Self { private: Some(Private { what, suffix, options }) })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Root's downloads are dropped to a user who may not write into a home directory: stay root, apt would anyway.
        command.args(["-o", "APT::Sandbox::User=root"]);
        for option in self.private.iter().flat_map(|private| &private.options) {
            command.args(["-o", option]);
        }
        command
    }

    fn update(&self) -> Result<()> {
        let Some(private) = &self.private else { return update() };
        let task = Task::start(format!("getting apt's lists: {}", private.what));
        output(self.command("apt-get").args(["-qq", "update"]))?;
        task.done();
        Ok(())
    }
}

impl Candidate {
    /// The first package that this one depends on whose name starts with `prefix`.
    pub fn dependency(&self, prefix: &str) -> Result<Self> {
        let names = self.depends.split([',', '|']).filter_map(|part| part.split_whitespace().next());
        let name = names.into_iter().find(|name| name.starts_with(prefix));
        let name = name.with_context(|| format!("{} depends on no {prefix}*, but on {:?}", self.name, self.depends))?;
        find(&self.apt, name)
    }

    /// Downloads the package and unpacks it into `directory`.
    pub fn unpack_into(&self, directory: &Path) -> Result<()> {
        let task = Task::start(format!("downloading {} {} ({} MB)", self.name, self.version, self.size / 1_000_000));
        let download = || {
            let wanted = format!("{}={}", self.name, self.version);
            output(self.apt.command("apt-get").current_dir(directory).args(["-qq", "download", &wanted]))
        };
        // Lists that are old name files that the mirror no longer has.
        download().or_else(|_| self.apt.update().and_then(|()| download()))?;
        unpack_archives(directory)?;
        task.done();
        Ok(())
    }

    /// The directory in the cache that holds the unpacked package.
    pub fn unpacked(&self) -> Result<PathBuf> {
        let suffix = self.apt.private.as_ref().map(|private| private.suffix).filter(|suffix| !suffix.is_empty());
        let suffix = suffix.map_or(String::new(), |suffix| format!("_{suffix}"));
        let name = format!("{}_{}{suffix}", self.name, file_name(&self.version));
        cache::once(&name, |directory| self.unpack_into(directory))
    }
}

/// What apt would fetch now for the package `name`; refreshes apt's lists when they do not have it.
pub fn candidate(name: &str) -> Result<Candidate> {
    find(&Apt { private: None }, name)
}

/// As [`candidate`], for an architecture.
pub fn candidate_for(arch: &Architecture, name: &str) -> Result<Candidate> {
    find(&Apt::of(arch)?, name)
}

fn find(apt: &Apt, name: &str) -> Result<Candidate> {
    let mut command = apt.command("apt-cache");
    command.args(["show", "--no-all-versions", name]);
    let text = output(&mut command).or_else(|_| apt.update().and_then(|()| output(&mut command)))?;
    parse(&text, apt).with_context(|| format!("{} printed no version", shown(&command)))
}

fn parse(text: &str, apt: &Apt) -> Option<Candidate> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    Some(Candidate {
        name: value("Package")?.to_owned(),
        version: value("Version")?.to_owned(),
        size: value("Size").and_then(|size| size.parse().ok()).unwrap_or_default(),
        depends: value("Depends").unwrap_or_default().to_owned(),
        apt: apt.clone(),
    })
}

/// A program of a newer version than this machine's release has, unpacked with what it needs that is not installed.
#[derive(Debug)]
pub struct Backport {
    /// The directory that holds the unpacked packages.
    pub root: PathBuf,
    /// The version of the package that was asked for.
    pub version: String,
}

/// The package `name` of this release's backports, with those packages that it needs and this machine lacks in these versions.
/// `unneeded` says which of them to leave out: an installation would have to upgrade them too, a directory in the cache need not.
/// Packages whose version `accepts` refuses are not fetched.
pub fn backport(name: &str, unneeded: fn(&str) -> bool, accepts: fn(&str) -> bool) -> Result<Backport> {
    let (apt, release) = Apt::with_backports()?;
    let plan = || {
        let options = ["-qq", "--simulate", "--no-install-recommends", "-t", &release, "install", name];
        let text = output(apt.command("apt-get").args(options))?;
        let mut packages = planned(&text);
        let version = packages.iter().find(|(package, _)| *package == name).map(|(_, version)| (*version).to_owned());
        let version = version.filter(|version| accepts(version));
        let version = version.with_context(|| format!("{release} has no {name} that is new enough"))?;
        packages.retain(|(package, _)| !unneeded(package));
        let wanted: Vec<_> = packages.iter().map(|(package, version)| format!("{package}={version}")).collect();
        Ok((version, wanted))
    };
    let (version, wanted) = plan().or_else(|_: anyhow::Error| apt.update().and_then(|()| plan()))?;
    let root = cache::once(&format!("{name}_{}", file_name(&version)), |directory| {
        let task = Task::start(format!("downloading {name} {version} and {} more", wanted.len() - 1));
        let download = || output(apt.command("apt-get").current_dir(directory).args(["-qq", "download"]).args(&wanted));
        download().or_else(|_| apt.update().and_then(|()| download()))?;
        unpack_archives(directory)?;
        task.done();
        Ok(())
    })?;
    Ok(Backport { root, version })
}

/// Unpacks the archives in this directory into it, and removes them.
fn unpack_archives(directory: &Path) -> Result<()> {
    for file in fs::read_dir(directory)? {
        let file = file?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg").arg("-x").arg(&file).arg(directory))?;
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

/// A version as part of a file's name.
fn file_name(version: &str) -> String {
    version.replace([':', '/'], "_")
}

/// The packages, with versions, that a simulated installation would unpack (lines `Inst NAME [OLD] (VERSION ORIGIN)`).
fn planned(simulation: &str) -> Vec<(&str, &str)> {
    simulation.lines().filter_map(planned_package).collect()
}

fn planned_package(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let version = rest.split_once('(')?.1.split(' ').next()?;
    Some((name, version))
}

/// The release of this machine's distribution.
fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("Reading /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no release")?.trim_matches('"').to_owned())
}

/// Where apt gets the release's main packages from.
fn mirror_of<'a>(release: &str, targets: &'a str) -> Option<&'a str> {
    targets.lines().find_map(|line| line.strip_prefix(release)?.strip_prefix(" main "))
}

/// The contents of a list of sources.
fn sources_list(mirror: &str, releases: &[&str], has_keyring: bool) -> String {
    let signed = if has_keyring { format!("[signed-by={KEYRING}] ") } else { String::new() };
    releases.iter().map(|release| format!("deb {signed}{mirror} {release} main")).collect::<Vec<_>>().join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_read_from_its_control_paragraph() {
        let text = "Package: meta\nVersion: 1:6.1-2\nDepends: real-6.1-cloud (= 6.1-2), other | third\nSize: 1500\n";
        let native = Apt { private: None };
        let candidate = parse(text, &native).unwrap();
        assert_eq!((candidate.name.as_str(), candidate.version.as_str(), candidate.size), ("meta", "1:6.1-2", 1500));
        assert_eq!(candidate.depends, "real-6.1-cloud (= 6.1-2), other | third");
        assert!(parse("Package: nothing\n", &native).is_none());
    }

    #[test]
    fn a_simulated_installation_names_what_is_new_and_what_it_upgrades() {
        let text = "Inst qemu-system-data [1:7.2] (1:10.0.2~bpo Debian Backports:oldstable-backports [all]) []\n\
                    Inst libnew1 (1.0-2 Debian:12.14/oldstable [amd64])\nConf libnew1 (1.0-2 Debian)\nRemv old [1]\n";
        assert_eq!(planned(text), [("qemu-system-data", "1:10.0.2~bpo"), ("libnew1", "1.0-2")]);
    }

    #[test]
    fn the_backports_come_from_the_mirror_of_the_release_itself() {
        let targets = "stable-security main https://security/\nother main https://vendor/\nstable contrib https://c/\n\
                       stable main https://mirror/debian/\n";
        let mirror = mirror_of("stable", targets).unwrap();
        assert_eq!(
            sources_list(mirror, &["stable", "stable-backports"], false),
            "deb https://mirror/debian/ stable main\ndeb https://mirror/debian/ stable-backports main\n"
        );
        assert_eq!(mirror_of("testing", targets), None);
    }
}
