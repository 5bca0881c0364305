//! The workspace that the testbed belongs to, and cargo in it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::arch::Architecture;
use crate::command::{run, shown};
use crate::compile::compiler;
use crate::packages::install;

/// The workspace's directory.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where runs leave their logs.
pub fn logs() -> PathBuf {
    root().join("target/testbed")
}

/// Where the demonstration leaves its files, as the README says.
pub fn demo() -> PathBuf {
    root().join("target/demo")
}

/// The cargo that runs us, or the one of the search path.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Builds carpel as users do, and returns its file.
pub fn carpel(arch: &Architecture) -> Result<PathBuf> {
    release(arch, "carpel", "carpel")
}

/// Builds the testbed for an architecture, and returns its file.
pub fn testbed(arch: &Architecture) -> Result<PathBuf> {
    release(arch, "carpel-testbed", "carpel-testbed")
}

/// Builds a program of a package for release.
fn release(arch: &Architecture, package: &str, program: &str) -> Result<PathBuf> {
    if !arch.is_native() {
        // The tests' own target is installed with the toolchain; others only where they are asked for.
        install(arch.cross)?;
        run(Command::new("rustup").args(["target", "add", arch.target]))?;
    }
    let mut command = cargo();
    command.args(["build", "--release", "-p", package, "--bin", program, "--target", arch.target]);
    command.arg("--message-format=json-render-diagnostics");
    if !arch.is_native() {
        let name = arch.target.to_uppercase().replace('-', "_");
        command.env(format!("CARGO_TARGET_{name}_LINKER"), compiler(arch.name, "gcc"));
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("Starting cargo")?;
    ensure!(output.status.success(), "{} ended with {}", shown(&command), output.status);
    let messages = String::from_utf8(output.stdout)?;
    executable(&messages).with_context(|| format!("{} named no executable", shown(&command)))
}

/// The executable that cargo's messages name (The Cargo Book, "External tools", artifact messages).
fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages.into_iter().find_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_read_from_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/carpel\"}\n\
                        {\"reason\":\"build-finished\"}\n";
        assert_eq!(executable(messages).unwrap(), Path::new("/t/carpel"));
        assert_eq!(executable("{\"reason\":\"build-finished\"}"), None);
    }
}
