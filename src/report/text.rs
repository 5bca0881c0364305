//! What a guest printed, as text that a report can hold.

use std::borrow::Cow;

/// The longest part of a character that a cut can leave, in bytes: UTF-8 has at most three bytes behind the first.
const REST_MAX: usize = 3;

/// The end of an output as text. The rest of a character that was cut is left out; other bytes that are none are
/// replaced.
pub fn decode(tail: &[u8]) -> Cow<'_, str> {
    let rest = tail.iter().take(REST_MAX).take_while(|&&byte| byte & 0xC0 == 0x80).count();
    String::from_utf8_lossy(&tail[rest..])
}

/// The same without control sequences, in lines that end in a newline.
pub fn clean(tail: &[u8]) -> String {
    let text = decode(tail);
    let mut cleaned = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(char) = rest.chars().next() {
        rest = &rest[char.len_utf8()..];
        match char {
            '\x1B' if rest.starts_with('[') => rest = behind_sequence(&rest[1..]),
            '\r' if rest.starts_with(['\r', '\n']) => {}
            '\r' => cleaned.push('\n'),
            char => cleaned.push(char),
        }
    }
    cleaned
}

/// What follows a control sequence, whose introducer has been read (ECMA-48, 5.4).
fn behind_sequence(text: &str) -> &str {
    let rest =
        text.trim_start_matches(|char| matches!(char, '0'..='?')).trim_start_matches(|char| matches!(char, ' '..='/'));
    rest.strip_prefix(|char| matches!(char, '@'..='~')).unwrap_or(rest)
}

/// Text for an XML document; what XML 1.0 cannot hold (section 2.2), or only with a warning, is replaced.
pub fn escape(text: &str) -> String {
    escape_with(text, |_| None)
}

/// Text for an XML attribute between double quotes, in which white space stays as it is.
pub fn escape_attribute(text: &str) -> String {
    escape_with(text, |char| match char {
        '"' => Some("&quot;"),
        '\t' => Some("&#9;"),
        '\n' => Some("&#10;"),
        _ => None,
    })
}

fn escape_with(text: &str, special: impl Fn(char) -> Option<&'static str>) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match (special(char), char) {
            (Some(reference), _) => escaped.push_str(reference),
            (None, '&') => escaped.push_str("&amp;"),
            (None, '<') => escaped.push_str("&lt;"),
            (None, '>') => escaped.push_str("&gt;"),
            (None, '\t' | '\n') => escaped.push(char),
            (None, '\u{FFFE}' | '\u{FFFF}') => escaped.push('\u{FFFD}'),
            (None, _) if char.is_control() => escaped.push('\u{FFFD}'),
            (None, _) => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_holds_any_text() {
        assert_eq!(
            escape("a<b> & \"c\"\n]]>\x1b[0m\0\u{9b}"),
            "a&lt;b&gt; &amp; \"c\"\n]]&gt;\u{FFFD}[0m\u{FFFD}\u{FFFD}"
        );
        assert_eq!(escape_attribute("a\t\"b\"\r\n\u{FFFF}"), "a&#9;&quot;b&quot;\u{FFFD}&#10;\u{FFFD}");
    }

    #[test]
    fn a_cut_character_is_left_out_and_no_other() {
        assert_eq!(decode(&"grün".as_bytes()[3..]), "n");
        assert_eq!(decode(&"\u{10FFFF}x".as_bytes()[1..]), "x");
        assert_eq!(decode(b"a\x80\xFFb"), "a\u{FFFD}\u{FFFD}b");
        assert_eq!(decode(b"\x80\x80\x80\x80"), "\u{FFFD}");
    }

    #[test]
    fn colours_and_carriage_returns_are_cleaned_away() {
        assert_eq!(clean(b"\x1b[1;31mred\x1b[0m\r\r\nover\rwritten\x1b[2 q\n"), "red\nover\nwritten\n");
        assert_eq!(clean(b"cut \x1b[3"), "cut ");
        assert_eq!(clean(b"\x1bM"), "\x1bM");
    }
}
