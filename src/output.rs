//! What carpel itself says: what was asked for on stdout, and errors on stderr, each in one line.

use std::fmt::Display;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use carpel_devices::diagnostics;

/// Prints what was asked for. A reader that has seen enough is no error.
pub fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("Cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Prints many lines to stderr, where they do not mix with what the guest prints.
pub fn dump(text: &str) {
    diagnostics::print(text);
}

/// Tells the user something on stderr.
pub fn tell(message: impl Display) {
    diagnostics::print(&format!("carpel: {message}\n"));
}

/// Tells the user of an error, in one line whatever names it holds.
pub fn complain(error: impl Display) {
    tell(one_line(error));
}

/// An error with its causes; control characters, which file names may hold, are escaped.
pub fn one_line(error: impl Display) -> String {
    let mut line = String::new();
    for char in format!("{error:#}").chars() {
        if char.is_control() { line.extend(char.escape_debug()) } else { line.push(char) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_steers_the_terminal_or_starts_a_line() {
        assert_eq!(one_line("a\nb\x1b[31m\u{9b}ü"), "a\\nb\\u{1b}[31m\\u{9b}ü");
    }
}
