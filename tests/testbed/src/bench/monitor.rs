//! The monitors that are compared on test guests, and the command lines that make them do the same.

use std::env;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::pty::openpty;

use crate::payload;

/// A program that runs a guest.
pub struct Monitor {
    /// Its name in tables.
    pub name: &'static str,
    program: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Floor,
    Carpel,
    Alioth,
}

/// A guest for a monitor.
pub struct Guest<'a> {
    /// The payload's name.
    pub payload: &'a str,
    /// Memory in MiB.
    pub mib: u64,
    /// What the payload is told.
    pub options: &'a str,
}

/// The guest that prints one byte and ends.
pub const fn one_byte(mib: u64) -> Guest<'static> {
    Guest { payload: "serial_byte", mib, options: "" }
}

impl Monitor {
    /// Only the calls that a guest needs.
    pub fn floor() -> Self {
        Self { name: "floor", program: payload::floor(), kind: Kind::Floor }
    }

    /// Ours.
    pub fn carpel(program: &Path) -> Self {
        Self { name: "carpel", program: program.to_owned(), kind: Kind::Carpel }
    }

    /// A small monitor in Rust as well, by the name that `cargo install alioth-cli` gives it.
    pub fn alioth() -> Self {
        Self { name: "alioth", program: "alioth".into(), kind: Kind::Alioth }
    }

    /// Where the program is; none if it is nowhere.
    pub fn file(&self) -> Option<PathBuf> {
        if self.program.components().count() > 1 {
            return Some(self.program.clone());
        }
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|directory| directory.join(&self.program)).find(|file| file.is_file())
    }

    /// Whether it can be measured.
    pub fn is_installed(&self) -> bool {
        self.file().is_some()
    }

    /// The command that runs a guest with its console on a pipe. Only what takes `one_byte` guests is asked of alioth.
    pub fn command(&self, guest: &Guest) -> Result<Command> {
        let mut command = Command::new(&self.program);
        let image = payload::path(guest.payload);
        match self.kind {
            Kind::Floor => command.arg(image).arg(guest.mib.to_string()).arg(guest.options),
            Kind::Carpel => {
                command.arg("run").arg("-k").arg(image).args(["-m", &format!("{}M", guest.mib), "-a", guest.options])
            }
            Kind::Alioth => command.arg("boot").arg("--pvh").arg(payload::byte_pvh()).args([
                "-m",
                &format!("size={}M", guest.mib),
                "--cpu",
                "count=1",
            ]),
        };
        // It takes its input from a terminal or not at all.
        command.stdin(if self.kind == Kind::Alioth { terminal()?.into() } else { Stdio::null() });
        command.stdout(Stdio::piped());
        Ok(command)
    }
}

/// A terminal with nobody at it: its other end stays open as long as this process.
fn terminal() -> Result<OwnedFd> {
    let ends = openpty(None, None).context("Opening a pseudoterminal")?;
    std::mem::forget(ends.master);
    Ok(ends.slave)
}
