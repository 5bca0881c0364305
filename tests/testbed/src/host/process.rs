//! A host's process and its output.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::command::shown;

/// A line that a host prints.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Of the steps' output and the driver's marks: standard output.
    Steps(String),
    /// Of its console, which no guest and no step writes on: standard error.
    Console(String),
}

/// Why there is no line.
#[derive(Debug, PartialEq, Eq)]
pub enum NoLine {
    /// None came in time.
    Yet,
    /// The process has closed both its outputs.
    EverAgain,
}

/// A host's process, ended when dropped, and the lines that it prints.
pub struct Process {
    child: Child,
    lines: Receiver<Line>,
}

impl Process {
    /// Starts `command` with no input.
    pub fn start(command: &mut Command) -> Result<Self> {
        let shown = shown(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("Starting {shown}"))?;
        let (sender, lines) = channel();
        forward(child.stdout.take().context("A child without its output")?, sender.clone(), Line::Steps);
        forward(child.stderr.take().context("A child without its console")?, sender, Line::Console);
        Ok(Self { child, lines })
    }

    /// The next line, if it comes until `deadline`.
    pub fn line(&self, deadline: Instant) -> Result<Line, NoLine> {
        let patience = deadline.saturating_duration_since(Instant::now());
        self.lines.recv_timeout(patience).map_err(|err| match err {
            RecvTimeoutError::Timeout => NoLine::Yet,
            RecvTimeoutError::Disconnected => NoLine::EverAgain,
        })
    }
}

/// Sends each line of `output` on, as long as somebody listens.
fn forward(output: impl Read + Send + 'static, sender: Sender<Line>, kind: fn(String) -> Line) {
    thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if sender.send(kind(plain(&String::from_utf8_lossy(&line)))).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// A line without control characters and terminal sequences (ECMA-48, control sequences): shells ask for the cursor's place, and a
/// firmware's clearing of its screen must not clear ours.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        if char == '\x1b' && chars.clone().next() == Some('[') {
            let is_final = |char: &char| ('@'..='~').contains(char);
            let _ = chars.by_ref().skip(1).find(is_final);
        } else if char == '\t' || !char.is_control() {
            text.push(char);
        }
    }
    text
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left to do here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_a_terminal_would_obey_is_no_text() {
        assert_eq!(plain("/ # \x1b[6nuname\r\n"), "/ # uname");
        assert_eq!(plain("\x1b[?7l\x1b[2Ja\tb\x1b"), "a\tb");
    }

    #[test]
    fn silence_and_the_end_are_no_lines_and_the_console_is_told_from_the_steps() {
        let start = |script: &str| Process::start(Command::new("sh").args(["-c", script])).unwrap();
        let soon = || Instant::now() + Duration::from_secs(10);
        let process = start("echo one; sleep 0.5; echo two >&2; sleep 60");
        assert_eq!(process.line(soon()), Ok(Line::Steps("one".to_owned())));
        assert_eq!(process.line(soon()), Ok(Line::Console("two".to_owned())));
        assert_eq!(process.line(Instant::now() + Duration::from_millis(200)), Err(NoLine::Yet));
        assert_eq!(start("exit 3").line(soon()), Err(NoLine::EverAgain));
    }
}
