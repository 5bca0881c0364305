//! The sources as rules look at them: Rust text with what is no code taken out.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of Rust.
pub struct Source {
    /// Its path in the repository.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// Every file of Rust in the workspace.
pub fn sources() -> Vec<Source> {
    let dirs = ["src", "arch", "devices", "vmm", "tests"].map(|dir| root().join(dir));
    let mut files: Vec<_> = dirs.iter().flat_map(|dir| files_with("rs", dir)).collect();
    files.sort();
    assert!(files.len() > 50, "the sources were found");
    let source = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        Source { name, text: fs::read_to_string(path).unwrap() }
    };
    files.into_iter().map(source).collect()
}

/// The files in and below a directory whose names end so; what is built does not count.
pub fn files_with(extension: &str, dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(files_with(extension, &path));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files
}

/// The text with spaces in place of comments and of what stands in quotes. Lines stay where they are.
pub fn code(text: &str) -> String {
    let mut code: Vec<u8> = text.bytes().collect();
    let mut at = 0;
    while at < code.len() {
        let skipped = skipped(&text.as_bytes()[at..], at > 0 && is_word(text.as_bytes()[at - 1]));
        for byte in code[at..at + skipped].iter_mut().filter(|byte| **byte != b'\n') {
            *byte = b' ';
        }
        at += skipped.max(1);
    }
    String::from_utf8(code).unwrap()
}

/// How many bytes of a comment, a string or a character begin here; 0 if none does.
fn skipped(text: &[u8], in_word: bool) -> usize {
    let until = |end: &[u8], from: usize| {
        let found = text[from..].windows(end.len()).position(|window| window == end);
        found.map_or(text.len(), |found| from + found + end.len())
    };
    let quoted = |quote: u8| {
        let mut at = 1;
        while text.get(at).is_some_and(|&byte| byte != quote) {
            at += if text[at] == b'\\' { 2 } else { 1 };
        }
        (at + 1).min(text.len())
    };
    match text {
        [b'/', b'/', ..] => text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len()),
        [b'/', b'*', ..] => until(b"*/", 2),
        [b'"', ..] => quoted(b'"'),
        [b'\'', b'\\', ..] => quoted(b'\''),
        // A character of up to four bytes; anything else is a lifetime.
        [b'\'', ..] => {
            (2..=5).find(|&at| text.get(at) == Some(&b'\'')).filter(|&at| is_char(&text[1..at])).map_or(0, |at| at + 1)
        }
        [b'r', b'"' | b'#', ..] if !in_word => {
            let hashes = text[1..].iter().take_while(|&&byte| byte == b'#').count();
            let end = [b"\"", &b"#".repeat(hashes)[..]].concat();
            if text.get(1 + hashes) == Some(&b'"') { until(&end, hashes + 2) } else { 0 }
        }
        _ => 0,
    }
}

fn is_char(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.chars().count() == 1)
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A word or a sign of code, and where it stands. `::` is one sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// The word or sign.
    pub text: &'a str,
    /// Its line, from 1.
    pub line: usize,
}

/// The tokens of code.
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let (bytes, mut tokens, mut at, mut line) = (code.as_bytes(), Vec::new(), 0, 1);
    while at < bytes.len() {
        let length = match bytes[at] {
            byte if is_word(byte) => bytes[at..].iter().take_while(|&&byte| is_word(byte)).count(),
            b':' if bytes.get(at + 1) == Some(&b':') => 2,
            byte if byte.is_ascii() => 1,
            _ => code[at..].chars().next().map_or(1, char::len_utf8),
        };
        match bytes[at] {
            b'\n' => line += 1,
            byte if byte.is_ascii_whitespace() => {}
            _ => tokens.push(Token { text: &code[at..at + length], line }),
        }
        at += length;
    }
    tokens
}

/// The tokens of what begins at `start`, to the end of its block or to the semicolon before one.
pub fn item(tokens: &[Token<'_>], start: usize) -> Range<usize> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth <= 0 {
                    return start..at + 1;
                }
            }
            ";" if depth == 0 => return start..at + 1,
            _ => {}
        }
    }
    start..tokens.len()
}

/// The tokens without what only tests have, and the modules of other files among that.
pub fn without_tests<'a>(tokens: &[Token<'a>]) -> (Vec<Token<'a>>, Vec<&'a str>) {
    let (mut rest, mut modules, mut at) = (Vec::new(), Vec::new(), 0);
    let texts =
        |from: usize, count: usize| tokens[from..].iter().take(count).map(|token| token.text).collect::<Vec<_>>();
    while at < tokens.len() {
        let is_test = texts(at, 5) == ["#", "[", "cfg", "(", "test"]
            || texts(at, 7) == ["#", "[", "cfg", "(", "any", "(", "test"];
        if !is_test {
            rest.push(tokens[at].clone());
            at += 1;
            continue;
        }
        while tokens[at].text == "#" {
            at += 1 + tokens[at + 1..].iter().position(|token| token.text == "]").map_or(0, |end| end + 1);
        }
        let item = item(tokens, at);
        let words = texts(item.start, item.len());
        if let Some(name) = words.iter().position(|&word| word == "mod").and_then(|at| words.get(at + 1)) {
            modules.push(*name);
        }
        at = item.end;
    }
    (rest, modules)
}

#[test]
fn comments_and_quotes_are_no_code() {
    let text =
        "let a = \"fs::read // \\\" {\"; // fs\nlet b: &'a str = r#\"File \" {\"#; /* fs */ let c = ['{', '\\'', 'x'];";
    let code = code(text);
    assert_eq!(code.len(), text.len());
    let words: Vec<_> = tokens(&code).iter().map(|token| (token.text.to_owned(), token.line)).collect();
    let text: Vec<_> = words.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(text.join(" "), "let a = ; let b : & ' a str = ; let c = [ , , ] ;");
    assert_eq!((words[3].1, words[4].1), (1, 2));
}

#[test]
fn what_only_tests_have_is_taken_out() {
    let text =
        "use a; #[cfg(test)] #[path = \"x\"] mod tests; #[cfg(test)] impl A { fn b() { c::d(); } } fn e(f: [u8; 2]) {}";
    let code = code(text);
    let (rest, modules) = without_tests(&tokens(&code)[..]);
    let words: Vec<_> = rest.iter().map(|token| token.text).collect();
    assert_eq!((words.join(" ").as_str(), modules), ("use a ; fn e ( f : [ u8 ; 2 ] ) { }", vec!["tests"]));
}
