//! A host's process and its output.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::shown;

/// A host's process, ended when dropped, and the lines that it prints.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command` with no input.
    pub fn start(command: &mut Command) -> Result<Self> {
        let shown = shown(command);
        let (reader, writer) = std::io::pipe()?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = command.spawn().with_context(|| format!("Starting {shown}"))?;
        // The command keeps the pipe's other end open until it is told to forget it.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                if sender.send(plain(&String::from_utf8_lossy(&line))).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Ok(Self { child, lines })
    }

    /// The next line; none when there comes none within `patience`, or ever.
    pub fn line(&self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }
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

    #[test]
    fn what_a_terminal_would_obey_is_no_text() {
        assert_eq!(plain("/ # \x1b[6nuname\r\n"), "/ # uname");
        assert_eq!(plain("\x1b[?7l\x1b[2Ja\tb\x1b"), "a\tb");
    }

    #[test]
    fn silence_and_the_end_are_no_lines() {
        let mut command = Command::new("sh");
        let process = Process::start(command.args(["-c", "echo one; echo two >&2; sleep 60"])).unwrap();
        let moment = Duration::from_millis(200);
        let patience = Duration::from_secs(10);
        assert_eq!(process.line(patience).as_deref(), Some("one"));
        assert_eq!(process.line(patience).as_deref(), Some("two"));
        assert_eq!(process.line(moment), None);
    }
}
