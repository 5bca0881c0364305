//! What of a guest's output only steers a terminal.

/// How many hexadecimal digits follow `ESC ] P`, by which a Linux console takes a colour (console_codes(4)).
const PALETTE_DIGITS: u8 = 7;

/// Tells text from control sequences (ECMA-48, section 5.3 and 5.4; console_codes(4) for what Linux does otherwise), byte by byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Escapes {
    /// Text.
    #[default]
    Text,
    /// Behind ESC.
    Escape,
    /// Behind ESC and intermediate bytes.
    Intermediate,
    /// In a control sequence, such as one for a colour.
    Control,
    /// Behind the start of an operating system command.
    Command,
    /// In a Linux console's palette entry: so many digits are left.
    Palette(u8),
    /// In a string, such as a window's title.
    String,
    /// Behind ESC in a string.
    StringEscape,
}

impl Escapes {
    /// Takes the next byte; returns whether it is text.
    pub(super) fn is_text(&mut self, byte: u8) -> bool {
        let next = if self.ends_with(byte) { Some(Self::Text) } else { self.after(byte) };
        *self = next.unwrap_or_default();
        next.is_none()
    }

    /// Whether a sequence ends with this byte that another one would go on with: CAN and SUB end all of them.
    const fn ends_with(self, byte: u8) -> bool {
        match self {
            Self::Text => false,
            Self::String => matches!(byte, 0x07 | 0x18 | 0x1A),
            Self::StringEscape => matches!(byte, b'\\' | 0x18 | 0x1A),
            Self::Command => matches!(byte, b'R' | 0x07 | 0x18 | 0x1A),
            Self::Palette(..=1) => byte.is_ascii_hexdigit() || matches!(byte, 0x18 | 0x1A),
            Self::Escape | Self::Intermediate | Self::Control | Self::Palette(_) => matches!(byte, 0x18 | 0x1A),
        }
    }

    /// What follows if the byte ends nothing; none if it is text.
    const fn after(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::String, 0x1B) => Some(Self::StringEscape),
            (_, 0x1B) => Some(Self::Escape),
            (Self::Escape | Self::StringEscape, b'[') | (Self::Control, 0x20..=0x3F) => Some(Self::Control),
            (Self::Escape | Self::StringEscape, b']') => Some(Self::Command),
            (Self::Command, b'P') => Some(Self::Palette(PALETTE_DIGITS)),
            (Self::Escape | Self::StringEscape, b'P' | b'X' | b'^' | b'_') | (Self::Command | Self::String, _) => {
                Some(Self::String)
            }
            (Self::Escape | Self::StringEscape | Self::Intermediate, 0x20..=0x2F) => Some(Self::Intermediate),
            (Self::Palette(left), _) if byte.is_ascii_hexdigit() => Some(Self::Palette(left - 1)),
            (Self::Escape | Self::StringEscape | Self::Intermediate, 0x30..=0x7E) | (Self::Control, 0x40..=0x7E) => {
                Some(Self::Text)
            }
            // No sequence at all.
            _ => None,
        }
    }
}

/// A line of the guest's without what could steer a terminal.
pub(super) fn printable(line: &[u8]) -> String {
    let mut escapes = Escapes::default();
    let text: Vec<_> = line.iter().copied().filter(|&byte| escapes.is_text(byte)).collect();
    let visible = |char| if char == '\t' { Some(' ') } else { Some(char).filter(|char: &char| !char.is_control()) };
    String::from_utf8_lossy(&text).chars().filter_map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_no_text() {
        for (line, text) in [
            (&b"\x1b[01;32mroot@host\x1b[00m:\x1b[01;34m~\x1b[00m# \x1b[6n"[..], "root@host:~# "),
            (b"\x1b]0;title\x07a\x1b]0;title\x1b\\b\x1bP1$r\x1b\\c", "abc"),
            (b"\x1b]P0001122a\x1b]Rb\x1b(Bc\x1b7d\x1b#8e", "abcde"),
            (b"\x1b[31\x18a\x1b\x1b[1mb\x1b[\x1b[0mc", "abc"),
            (b"a\tb\x07\x08c\x7f\xc2\x9bd\xff", "a bcd\u{FFFD}"),
            (b"cut \x1b[3", "cut "),
        ] {
            assert_eq!(printable(line), text, "{line:?}");
        }
    }
}
