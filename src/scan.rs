//! What each argument is to the command that gets it, found as the parser finds it but judged by nobody yet.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use clap::{Arg, Command};

use crate::words;

/// The arguments in front of `--`, or of a request for help.
pub struct Scan<'a> {
    root: &'a Command,
    /// The command, once it was named.
    command: Option<&'a Command>,
    /// What is in front of and behind it, in order.
    items: Vec<Item<'a>>,
    /// Whether a command of the guest's stands behind `--`.
    has_guest_command: bool,
}

/// An argument, or two if the second is the value of the first.
pub enum Item<'a> {
    /// What the command takes, with its value if it takes one and there is one.
    Option(&'a Arg, Option<&'a OsStr>),
    /// A word that looks like an option but is none, without its `=value`.
    Unknown(String),
    /// The name of a long option behind a single dash, which would read as a short option with a value.
    OneDash(String),
    /// A letter that ends the run at once, with this text around it.
    Together(char, String),
    /// An option that has its answer already.
    Answered(String, &'static str),
    /// A word that nothing takes.
    Stray(&'a OsStr),
}

/// What remains to be read.
struct Rest<'a> {
    args: &'a [OsString],
}

impl<'a> Scan<'a> {
    /// Reads all arguments but the first, which is the program's name.
    pub fn new(root: &'a Command, args: &'a [OsString]) -> Self {
        let mut scan = Self { root, command: None, items: Vec::new(), has_guest_command: false };
        let mut rest = Rest { args: args.get(1..).unwrap_or_default() };
        while let Some(arg) = rest.next() {
            match arg.as_bytes() {
                b"--" => {
                    scan.has_guest_command = scan.runs() && !rest.args.is_empty();
                    while let (Some(word), Some(_), false) = (rest.next(), scan.command, scan.runs()) {
                        scan.word(word);
                    }
                    break;
                }
                b"-h" | b"--help" => break,
                b"-V" | b"--version" if scan.command.is_none() => break,
                [b'-', b'-', ..] => scan.long(arg, &mut rest),
                [b'-', _, ..] => scan.short(arg, &mut rest),
                _ if scan.command.is_none() => {
                    scan.command = root.find_subcommand(arg);
                    if scan.command.is_none() {
                        // What is behind it belongs to nothing.
                        scan.items.push(Item::Stray(arg));
                        break;
                    }
                }
                _ => scan.word(arg),
            }
        }
        scan
    }

    pub fn root(&self) -> &'a Command {
        self.root
    }

    pub fn command(&self) -> Option<&'a Command> {
        self.command
    }

    pub fn items(&self) -> &[Item<'a>] {
        &self.items
    }

    pub fn has_guest_command(&self) -> bool {
        self.has_guest_command
    }

    /// Whether the command is the one that boots a guest.
    pub fn runs(&self) -> bool {
        self.command.is_some_and(|command| command.get_name() == "run")
    }

    /// The options of the command.
    pub fn options(&self) -> impl Iterator<Item = &'a Arg> {
        let shared = self.root.get_arguments().filter(|arg| arg.is_global_set() || self.command.is_none());
        self.command.into_iter().flat_map(Command::get_arguments).chain(shared)
    }

    /// `--name`, `--name=value` or `--name value`.
    fn long(&mut self, arg: &'a OsStr, rest: &mut Rest<'a>) {
        let (name, value) = split(arg);
        let is_it = |option: &&Arg| names(option).any(|long| name[2..] == *long);
        let option = self.options().find(is_it);
        let is_elsewhere = || self.root.get_subcommands().flat_map(Command::get_arguments).any(|option| is_it(&option));
        let answer = words::option(&name).filter(|_| self.runs() || !is_elsewhere());
        self.items.push(match (option, answer) {
            (Some(option), _) => Item::Option(option, value.or_else(|| rest.value(option))),
            (None, Some(answer)) => Item::Answered(name, answer),
            (None, None) => Item::Unknown(name),
        });
    }

    /// `-n`, `-nvalue`, `-n value` and letters together, unless the whole is a word that is written with two dashes.
    fn short(&mut self, arg: &'a OsStr, rest: &mut Rest<'a>) {
        let (word, _) = split(arg);
        let is_long = |option: &Arg| names(option).chain(["help", "version"]).any(|long| word[1..] == *long);
        let letter = |letter: char| self.options().find(|option| option.get_short() == Some(letter));
        let own = word.len() == 2 && word.chars().nth(1).is_some_and(|char| letter(char).is_some());
        match words::option(&word).filter(|_| !own) {
            Some(answer) => self.items.push(Item::Answered(word, answer)),
            None if self.root.get_arguments().chain(self.options()).any(is_long) => {
                self.items.push(Item::OneDash(word));
            }
            None => self.letters(arg, rest),
        }
    }

    fn letters(&mut self, arg: &'a OsStr, rest: &mut Rest<'a>) {
        let text = arg.to_string_lossy().into_owned();
        for (at, char) in text.char_indices().skip(1) {
            if char == 'h' || char == 'V' && self.command.is_none() {
                return self.items.push(Item::Together(char, text));
            }
            let Some(option) = self.options().find(|option| option.get_short() == Some(char)) else {
                let value = &text[at + char.len_utf8()..];
                let volume = words::volume(value).filter(|_| at > 1 && text.starts_with("-v"));
                let answer = volume.or_else(|| words::attached(char).filter(|_| at == 1 && !value.is_empty()));
                return self.items.push(
                    answer.map_or(Item::Unknown(split(arg).0), |answer| Item::Answered(text[..2].to_owned(), answer)),
                );
            };
            if option.get_action().takes_values() {
                // So far all characters were letters of options, which are ASCII.
                let attached = &arg.as_bytes()[at + 1..];
                let value = if attached.is_empty() { rest.value(option) } else { Some(OsStr::from_bytes(attached)) };
                return self.items.push(Item::Option(option, value));
            }
            self.items.push(Item::Option(option, None));
        }
    }

    /// A word without a dash.
    fn word(&mut self, arg: &'a OsStr) {
        let taken =
            self.items.iter().filter(|item| matches!(item, Item::Option(arg, _) if arg.is_positional())).count();
        let mut wanted = self.command.into_iter().flat_map(Command::get_positionals).filter(|arg| !arg.is_last_set());
        if let Some(wanted) = wanted.nth(taken) {
            return self.items.push(Item::Option(wanted, Some(arg)));
        }
        let is_behind_v =
            matches!(self.items.last(), Some(Item::Option(option, None)) if option.get_short() == Some('v'));
        let volume = words::volume(&arg.to_string_lossy()).filter(|_| is_behind_v);
        self.items.push(volume.map_or(Item::Stray(arg), |answer| Item::Answered("-v".into(), answer)));
    }
}

impl<'a> Rest<'a> {
    fn next(&mut self) -> Option<&'a OsStr> {
        let (first, rest) = self.args.split_first()?;
        self.args = rest;
        Some(first)
    }

    /// The value of an option, if it takes one and the next argument can be one.
    fn value(&mut self, option: &Arg) -> Option<&'a OsStr> {
        let next = self.args.first()?.as_bytes();
        let is_number = option.is_allow_negative_numbers_set() && next.get(1).is_some_and(u8::is_ascii_digit);
        let can_be = !next.starts_with(b"-") || next == b"-" || option.is_allow_hyphen_values_set() || is_number;
        let is_apart = option.get_action().takes_values() && !option.is_require_equals_set();
        if is_apart && can_be { self.next() } else { None }
    }
}

/// All long names of an option.
pub fn names(option: &Arg) -> impl Iterator<Item = &str> {
    option.get_long().into_iter().chain(option.get_all_aliases().unwrap_or_default())
}

/// The name and the value of `name=value`.
fn split(arg: &OsStr) -> (String, Option<&OsStr>) {
    let bytes = arg.as_bytes();
    let at = bytes.iter().position(|&byte| byte == b'=');
    let name = OsStr::from_bytes(&bytes[..at.unwrap_or(bytes.len())]).to_string_lossy().into_owned();
    (name, at.map(|at| OsStr::from_bytes(&bytes[at + 1..])))
}
