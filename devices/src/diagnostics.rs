//! Carpel's own lines on standard error: each begins at a line's start, whatever a guest has printed to the same place.

use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::stat::{FileStat, fstat, makedev};

/// `/dev/tty`, the terminal that controls a process (Documentation/admin-guide/devices.txt).
const CONTROLLING_TERMINAL: (u64, u64) = (5, 0);

/// Whether standard error stands amid a line of a guest's. Standard error belongs to the process, and so does this. No
/// lock orders it with the output that it is about, which may wait for its reader without end: a message that comes at
/// the same moment as output may follow upon it in one line.
static MID_LINE: AtomicBool = AtomicBool::new(false);

/// Standard error, for whole lines of carpel's own.
#[derive(Debug)]
pub struct Diagnostics;

/// Prints whole lines. There is no better place to be told that standard error is full or closed.
pub fn print(lines: &str) {
    let _ = Diagnostics.write_all(lines.as_bytes());
}

impl Write for Diagnostics {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if MID_LINE.swap(false, Ordering::Relaxed) {
            // In one piece, so that nothing comes between.
            io::stderr().write_all(&[b"\n", lines].concat())?;
        } else {
            io::stderr().write_all(lines)?;
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes note of output to where standard error goes, too.
pub(crate) fn note_output(bytes: &[u8]) {
    if let Some(mid_line) = ends_mid_line(bytes) {
        MID_LINE.store(mid_line, Ordering::Relaxed);
    }
}

/// Whether a terminal that printed this stands amid a line; `None` where that is as before. A carriage return neither
/// begins nor ends one: what stands there would be overwritten.
fn ends_mid_line(bytes: &[u8]) -> Option<bool> {
    bytes.iter().rfind(|&&byte| byte != b'\r').map(|&byte| byte != b'\n')
}

/// Whether a file is the one that standard error is.
pub(crate) fn is_stderr(file: impl AsFd) -> bool {
    let is_controlling = |stat: &FileStat| stat.st_rdev == makedev(CONTROLLING_TERMINAL.0, CONTROLLING_TERMINAL.1);
    match (fstat(&file), fstat(io::stderr())) {
        (Ok(file_stat), Ok(stderr)) => {
            let is_same = (file_stat.st_dev, file_stat.st_ino) == (stderr.st_dev, stderr.st_ino);
            // `/dev/tty` is another name of a terminal: most likely of this one.
            let is_renamed = || is_controlling(&file_stat) != is_controlling(&stderr);
            is_same || (is_renamed() && file.as_fd().is_terminal() && io::stderr().is_terminal())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_line_feed_leads_to_a_lines_start() {
        assert_eq!(ends_mid_line(b"text\r\n"), Some(false));
        assert_eq!(ends_mid_line(b"text\n\r"), Some(false));
        assert_eq!(ends_mid_line(b"text\r"), Some(true));
        assert_eq!(ends_mid_line(b"\nlogin: "), Some(true));
        assert_eq!(ends_mid_line(b"\r"), None);
        assert_eq!(ends_mid_line(b""), None);
    }
}
