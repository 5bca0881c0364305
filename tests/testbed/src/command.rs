//! Running programs: their success, their output, and an error that shows what they said.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` with its output on ours; an error when it does not succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("Starting {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

/// Runs `command` silently and returns its standard output; an error with what it said when it does not succeed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = bytes(command)?;
    String::from_utf8(output).with_context(|| format!("{} printed something other than UTF-8", shown(command)))
}

/// As [`output`], for output that is no text.
pub fn bytes(command: &mut Command) -> Result<Vec<u8>> {
    let shown = shown(command);
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("Starting {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(stdout)
}

/// The MD5 sum of a file, as `md5sum` prints it. It tells damage, not malice.
pub fn md5(file: &Path) -> Result<String> {
    let line = output(Command::new("md5sum").arg(file))?;
    line.split_whitespace().next().map(str::to_owned).context("md5sum printed nothing")
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
