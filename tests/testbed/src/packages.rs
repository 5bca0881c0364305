//! Packages of the distribution, through the machine's own apt configuration: installed where the build needs them, or only
//! unpacked into the cache where a file of theirs is wanted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Architecture;
use crate::cache;
use crate::command::{output, shown};
use crate::say::Task;

/// Package names of a distribution, for hosts and guests of its own architecture.
#[derive(Debug)]
pub struct Names {
    /// `ID` in /etc/os-release.
    id: &'static str,
    /// The meta-package that names the stock kernel's current package, on amd64.
    kernel: &'static str,
    /// Prefix of the packages that hold the stock kernel's modules, where they are not in the kernel's own.
    pub modules: Option<&'static str>,
    /// The meta-package that names the current package of the kernel's source.
    pub source: &'static str,
    /// A statically linked busybox in /bin or /usr/bin.
    pub busybox: &'static str,
}

/// What must be installed, under the same names everywhere: emulators, what builds a kernel, and what tests call.
const TOOLS: &[&str] = &[
    "qemu-system-x86",
    "qemu-system-arm",
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "device-tree-compiler",
    "e2fsprogs",
    "iproute2",
    "make",
    "flex",
    "bison",
    "bc",
    "libc6-dev",
    "libelf-dev",
    "bzip2",
    "xz-utils",
    "zstd",
];

const DISTRIBUTIONS: [Names; 2] = [
    Names {
        id: "debian",
        kernel: "linux-image-cloud-amd64",
        modules: None,
        source: "linux-source",
        busybox: "busybox-static",
    },
    Names {
        id: "ubuntu",
        kernel: "linux-image-virtual",
        modules: Some("linux-modules-"),
        source: "linux-source",
        busybox: "busybox-static",
    },
];

impl Names {
    /// The meta-package that names the stock kernel's current package.
    pub fn kernel(&self, arch: &Architecture) -> String {
        self.kernel.replace("amd64", arch.package)
    }
}

/// The names of this machine's distribution, or of the one that it says it is like.
pub fn names() -> Result<&'static Names> {
    let text = fs::read_to_string("/etc/os-release").context("Reading /etc/os-release")?;
    names_in(&text)
}

fn names_in(os_release: &str) -> Result<&'static Names> {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"')
    };
    let mut ids = value("ID").split(' ').chain(value("ID_LIKE").split(' '));
    let known = |id: &str| DISTRIBUTIONS.iter().find(|names| names.id == id);
    ids.find_map(known).with_context(|| format!("No package names known for the distribution {:?}", value("ID")))
}

/// Installs those of the distribution's tools that are missing: as root, or through sudo where it asks for no password.
/// Otherwise the error is the command to type.
pub fn install_tools() -> Result<()> {
    // A distribution that is not known may have none of them.
    names()?;
    let missing: Vec<_> = TOOLS.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut install = apt_get(&["install", "-y", "-qq", "--no-install-recommends"])?;
    install.args(&missing);
    let task = Task::start(format!("installing {}", missing.join(" ")));
    output(&mut install).or_else(|_| update().and_then(|()| output(&mut install)))?;
    task.done();
    Ok(())
}

fn is_installed(name: &str) -> bool {
    let status = output(Command::new("dpkg-query").args(["-W", "-f=${Status}", name]));
    status.is_ok_and(|status| status == "install ok installed")
}

fn update() -> Result<()> {
    let task = Task::start("refreshing apt's lists of packages");
    output(&mut apt_get(&["update", "-qq"])?)?;
    task.done();
    Ok(())
}

/// `apt-get` with the rights to change the system, or an error that holds the command to type.
fn apt_get(args: &[&str]) -> Result<Command> {
    if is_root() {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        return Ok(command);
    }
    let sudo = output(Command::new("sudo").args(["-n", "true"])).is_ok();
    if sudo {
        let mut command = Command::new("sudo");
        command.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]).args(args);
        return Ok(command);
    }
    bail!(
        "Packages are missing, and this user may not install them. Run this, then try again:\n    \
         sudo apt-get update && sudo apt-get install --no-install-recommends {}",
        TOOLS.join(" ")
    )
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

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

/// The packages of an architecture. Those of another than this machine's have lists and archives of their own in the cache, which
/// needs no rights.
#[derive(Clone, Debug)]
struct Apt {
    /// The architecture's name and the directory; none for this machine's own.
    foreign: Option<(&'static str, PathBuf)>,
}

impl Apt {
    fn of(arch: &Architecture) -> Result<Self> {
        if arch.is_native() {
            return Ok(Self { foreign: None });
        }
        let directory = cache::directory()?.join(format!("apt-{}", arch.package));
        // apt makes neither by itself.
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(directory.join(part)).with_context(|| format!("Creating {part} for apt"))?;
        }
        Ok(Self { foreign: Some((arch.package, directory)) })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |text: String| {
            command.args(["-o", &text]);
        };
        // Root's downloads are dropped to a user who may not write into a home directory: stay root, apt would anyway.
        option("APT::Sandbox::User=root".into());
        if let Some((name, directory)) = &self.foreign {
            option(format!("APT::Architecture={name}"));
            option(format!("APT::Architectures={name}"));
            option(format!("Dir::State::Lists={}", directory.join("lists").display()));
            option(format!("Dir::Cache={}", directory.display()));
        }
        command
    }

    fn update(&self) -> Result<()> {
        if self.foreign.is_none() {
            return update();
        }
        let task = Task::start("getting apt's lists of packages of another architecture");
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
        for file in fs::read_dir(directory)? {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                output(Command::new("dpkg").arg("-x").arg(&file).arg(directory))?;
                fs::remove_file(&file)?;
            }
        }
        task.done();
        Ok(())
    }

    /// The directory in the cache that holds the unpacked package.
    pub fn unpacked(&self) -> Result<PathBuf> {
        let architecture = self.apt.foreign.as_ref().map_or(String::new(), |(name, _)| format!("_{name}"));
        let name = format!("{}_{}{architecture}", self.name, self.version.replace([':', '/'], "_"));
        cache::once(&name, |directory| self.unpack_into(directory))
    }
}

/// What apt would fetch now for the package `name`; refreshes apt's lists when they do not have it.
pub fn candidate(name: &str) -> Result<Candidate> {
    find(&Apt { foreign: None }, name)
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

/// The statically linked busybox of the distribution, for an architecture.
pub fn busybox(arch: &Architecture) -> Result<PathBuf> {
    let root = candidate_for(arch, names()?.busybox)?.unpacked()?;
    let found = [root.join("bin/busybox"), root.join("usr/bin/busybox")].into_iter().find(|path| path.exists());
    found.with_context(|| format!("No busybox in {}", root.display()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derivative_uses_the_names_of_what_it_is_like() {
        assert_eq!(names_in("ID=debian\nVERSION_ID=\"12\"\n").unwrap().id, "debian");
        assert_eq!(names_in("ID=mint\nID_LIKE=\"ubuntu debian\"\n").unwrap().id, "ubuntu");
        assert!(names_in("ID=fedora\n").unwrap_err().to_string().contains("fedora"));
    }

    #[test]
    fn a_candidate_is_read_from_its_control_paragraph() {
        let text = "Package: meta\nVersion: 1:6.1-2\nDepends: real-6.1-cloud (= 6.1-2), other | third\nSize: 1500\n";
        let native = Apt { foreign: None };
        let candidate = parse(text, &native).unwrap();
        assert_eq!((candidate.name.as_str(), candidate.version.as_str(), candidate.size), ("meta", "1:6.1-2", 1500));
        assert_eq!(candidate.depends, "real-6.1-cloud (= 6.1-2), other | third");
        assert!(parse("Package: nothing\n", &native).is_none());
    }
}
