//! One port of the console: its lines, and what is looked for in them.

use std::mem;
use std::time::Instant;

use super::escape::{Escapes, printable};
use super::pattern::{Found, Patterns, Search};

/// The longest line that is judged as a whole, in bytes. A guest that never ends a line must not grow the monitor.
pub(super) const PIECE: usize = 64 << 10;
/// So much of a piece stays when it is judged, in bytes: longer than any text that is looked for, for one may lie across the cut.
const OVERLAP: usize = 64;
/// How much of a line is shown, in bytes.
const SHOWN: usize = 1024;
/// How a Linux kernel's panic message starts (kernel/panic.c).
pub(super) const PANIC: &[u8] = b"Kernel panic - not syncing";
/// What it prints after all else (kernel/panic.c).
const PANIC_END: &[u8] = b"---[ end Kernel panic";
/// What it prints after a trace (`print_oops_end_marker`, kernel/panic.c).
const TRACE_END: &[u8] = b"---[ end ";
/// What a kernel says before it resets the machine, each behind a time stamp or none (kernel/reboot.c, arch/x86/kernel/reboot.c,
/// drivers/tty/sysrq.c). The first may go on with a command.
const RESTARTING: &str = "reboot: Restarting system";
const RESTARTING_OTHERWISE: [&str; 2] = ["reboot: machine restart", "sysrq: Resetting"];

/// Which option's patterns.
pub(super) struct Wanted {
    pub(super) fail_on: Option<Patterns>,
    pub(super) until: Option<Patterns>,
}

impl Wanted {
    pub(super) const fn is_nothing(&self) -> bool {
        self.fail_on.is_none() && self.until.is_none()
    }
}

/// What came with a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing to look at.
    None,
    /// The kernel panicked.
    Panic,
    /// A line ended before this byte, or with it.
    Line,
    /// A piece of a line is long enough.
    Piece,
}

/// How the last line ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Return {
    /// Not by a carriage return.
    None,
    /// By one, and it is not known yet whether a line feed belongs to it.
    Last,
    /// By one, and it has been judged.
    Judged,
}

/// Searches for the patterns of an option.
#[derive(Debug)]
struct Searches {
    /// In the line as it is.
    raw: Search,
    /// In its text.
    text: Search,
}

/// A port.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) name: String,
    line: Vec<u8>,
    /// The last line that was not blank.
    previous: Vec<u8>,
    returned: Return,
    escapes: Escapes,
    /// It prints the end of its panic's messages.
    last_words: bool,
    fail_on: Option<Searches>,
    until: Option<Searches>,
    /// When it printed last, as long as that is not judged.
    pub(super) waiting_since: Option<Instant>,
}

impl Searches {
    fn new(patterns: &Patterns) -> Self {
        Self { raw: Search::new(patterns), text: Search::new(patterns) }
    }

    fn restart(&mut self, patterns: &Patterns) {
        self.raw.restart(patterns);
        self.text.restart(patterns);
    }
}

impl Port {
    pub(super) fn new(name: &str, wanted: &Wanted) -> Self {
        Self {
            name: name.to_owned(),
            line: Vec::new(),
            previous: Vec::new(),
            returned: Return::None,
            escapes: Escapes::default(),
            last_words: false,
            fail_on: wanted.fail_on.as_ref().map(Searches::new),
            until: wanted.until.as_ref().map(Searches::new),
            waiting_since: None,
        }
    }

    /// Takes a byte that the guest printed. After [`Event::Line`], the line is to be judged and then ended by [`Self::next_line`],
    /// and if this returns it again for the same byte, there is another.
    pub(super) fn take(&mut self, byte: u8, wanted: &Wanted) -> Event {
        match (self.returned, byte) {
            (Return::Last, b'\n') => {
                self.returned = Return::None;
                Event::Line
            }
            (Return::Last, _) => {
                self.returned = Return::Judged;
                Event::Line
            }
            (Return::Judged, b'\n') => {
                self.returned = Return::None;
                Event::None
            }
            (_, b'\r') => {
                self.returned = Return::Last;
                Event::None
            }
            (_, b'\n') => Event::Line,
            _ => {
                self.returned = Return::None;
                self.push(byte, wanted)
            }
        }
    }

    fn push(&mut self, byte: u8, wanted: &Wanted) -> Event {
        let at = self.line.len();
        self.line.push(byte);
        let is_text = self.escapes.is_text(byte);
        for (searches, patterns) in [(&mut self.fail_on, &wanted.fail_on), (&mut self.until, &wanted.until)] {
            if let (Some(searches), Some(patterns)) = (searches, patterns) {
                searches.raw.step(patterns, byte, at);
                if is_text {
                    searches.text.step(patterns, byte, at);
                }
            }
        }
        // The last bytes of these texts.
        match byte {
            b'g' if self.line.ends_with(PANIC) => return Event::Panic,
            b'c' if self.line.ends_with(PANIC_END) => self.last_words = true,
            _ => {}
        }
        if self.line.len() >= PIECE { Event::Piece } else { Event::None }
    }

    /// Whether a line was begun, or ended by a carriage return that has not been judged.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.line.is_empty() || self.returned == Return::Last
    }

    /// Judges a piece of a line: what would match only if it ended here does not.
    pub(super) fn judge_piece(&self, fail: bool) -> Option<Found> {
        let searches = if fail { &self.fail_on } else { &self.until };
        searches.as_ref().and_then(|searches| searches.raw.found().or(searches.text.found()))
    }

    /// Judges the line as one that ends here. The next thing must be [`Self::next_line`].
    pub(super) fn judge(&mut self, fail: bool, wanted: &Wanted) -> Option<Found> {
        let (searches, patterns) =
            if fail { (&mut self.fail_on, &wanted.fail_on) } else { (&mut self.until, &wanted.until) };
        let (searches, patterns, at) = (searches.as_mut()?, patterns.as_ref()?, self.line.len());
        searches.raw.end(patterns, at).or_else(|| searches.text.end(patterns, at))
    }

    /// Judges the line as one that ends here, though it may go on.
    pub(super) fn judge_unfinished(&self, fail: bool, wanted: &Wanted) -> Option<Found> {
        let (searches, patterns) = if fail { (&self.fail_on, &wanted.fail_on) } else { (&self.until, &wanted.until) };
        let (searches, patterns, at) = (searches.as_ref()?, patterns.as_ref()?, self.line.len());
        searches.raw.would_end(patterns, at).or_else(|| searches.text.would_end(patterns, at))
    }

    /// A line fed ends an unfinished line that was judged as a whole.
    pub(super) fn note_judged_return(&mut self) -> bool {
        let ended = self.returned == Return::Last;
        if ended {
            self.returned = Return::Judged;
        }
        ended
    }

    /// The line is over. Returns whether it was the last of a panic's messages.
    pub(super) fn next_line(&mut self, wanted: &Wanted) -> bool {
        if self.line.iter().any(|byte| !byte.is_ascii_whitespace()) {
            mem::swap(&mut self.line, &mut self.previous);
        }
        self.line.clear();
        self.escapes = Escapes::default();
        for (searches, patterns) in [(&mut self.fail_on, &wanted.fail_on), (&mut self.until, &wanted.until)] {
            if let (Some(searches), Some(patterns)) = (searches, patterns) {
                searches.restart(patterns);
            }
        }
        mem::take(&mut self.last_words)
    }

    /// The line goes on, but no longer than needed is kept of it.
    pub(super) fn next_piece(&mut self) {
        self.line.drain(..self.line.len().saturating_sub(OVERLAP));
    }

    /// Whether the line holds what a kernel prints after a trace.
    pub(super) fn ends_trace(&self) -> bool {
        self.line.windows(TRACE_END.len()).any(|bytes| bytes == TRACE_END)
    }

    /// What to show of the line: all of it, or what is around a place.
    pub(super) fn shown(&self, at: usize) -> String {
        if self.line.len() <= SHOWN {
            return printable(&self.line);
        }
        let start = at.saturating_sub(SHOWN / 2).min(self.line.len() - SHOWN);
        printable(&self.line[start..start + SHOWN])
    }

    /// Whether its last line says that the kernel restarts the machine.
    pub(super) fn is_restarting(&self) -> bool {
        let blank = self.line.iter().all(u8::is_ascii_whitespace);
        says_restart(&printable(if blank { &self.previous } else { &self.line }))
    }
}

/// Whether a kernel says on this line that it restarts. In front may stand a level, a time and a thread, each in brackets.
fn says_restart(line: &str) -> bool {
    let mut message = line.trim();
    while let Some((inside, rest)) = ["<>", "[]"].iter().find_map(|brackets| {
        let (open, close) = brackets.split_at(1);
        message.strip_prefix(open)?.split_once(close)
    }) {
        // A longer text is no prefix of the kernel's.
        if inside.len() > 32 {
            return false;
        }
        message = rest.trim_start();
    }
    let restarting =
        message.strip_prefix(RESTARTING).is_some_and(|rest| rest.is_empty() || rest.starts_with(" with command '"));
    restarting || RESTARTING_OTHERWISE.contains(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_restart_messages_are_told_from_others() {
        for line in [
            "reboot: Restarting system",
            "[    1.234567] reboot: Restarting system",
            "<0>[   12.000000][    T1] reboot: Restarting system with command 'bootloader'",
            "[    2.5] reboot: machine restart",
            "[    2.5] sysrq: Resetting ",
        ] {
            assert!(says_restart(line), "{line}");
        }
        for line in [
            "",
            "login:",
            "[    1.0] reboot: Restarting systems",
            "[    1.0] reboot: Power down",
            "echo reboot: Restarting system",
            "[    1.0] reboot: Restarting system failed",
        ] {
            assert!(!says_restart(line), "{line}");
        }
    }
}
