//! Packages of the distribution, through the machine's own apt configuration: installed where the build needs them, or only
//! unpacked into the cache where a file of theirs is wanted.

mod apt;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::arch::Architecture;
use crate::command::output;
use crate::say::Task;
pub use apt::{Backport, Candidate, backport, candidate, candidate_for};

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

/// What builds a kernel, under the same names everywhere.
pub const KERNEL_BUILD: &[&str] = &["make", "flex", "bison", "bc", "libc6-dev", "libelf-dev", "bzip2", "xz-utils"];
/// What the workspace's tests call.
pub const TESTS: &[&str] = &["device-tree-compiler", "e2fsprogs", "iproute2", "zstd"];

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

/// Installs those of these packages that are missing: as root, or through sudo where it asks for no password. Otherwise the error is
/// the command to type.
pub fn install(packages: &[&str]) -> Result<()> {
    // A distribution that is not known may have none of them.
    names()?;
    let missing: Vec<_> = packages.iter().copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut install = apt_get(&missing, &["install", "-y", "-qq", "--no-install-recommends"])?;
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
    output(&mut apt_get(&[], &["update", "-qq"])?)?;
    task.done();
    Ok(())
}

/// `apt-get` with the rights to change the system, or an error that holds the command to type for the `missing` packages.
fn apt_get(missing: &[&str], args: &[&str]) -> Result<Command> {
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
    let install = match missing {
        [] => String::new(),
        missing => format!(" && sudo apt-get install --no-install-recommends {}", missing.join(" ")),
    };
    bail!(
        "Packages are missing, and this user may not install them. Run this, then try again:\n    \
         sudo apt-get update{install}"
    )
}

fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// The statically linked busybox of the distribution, for an architecture.
pub fn busybox(arch: &Architecture) -> Result<PathBuf> {
    let root = candidate_for(arch, names()?.busybox)?.unpacked()?;
    let found = [root.join("bin/busybox"), root.join("usr/bin/busybox")].into_iter().find(|path| path.exists());
    found.with_context(|| format!("No busybox in {}", root.display()))
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
}
