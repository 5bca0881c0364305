//! From the arguments to what they ask for, or to the one line that says what is wrong with them.

use std::any::TypeId;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, Command as Definition, CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Command, FAILURE, USAGE_ERROR};
use crate::output;
use crate::scan::{Item, Scan, names};
use crate::words;

/// Why there is nothing to do.
#[derive(Debug)]
pub enum Stop {
    /// Help or the version was asked for.
    Help(clap::Error),
    /// The arguments are wrong.
    Wrong {
        /// One line, but for control characters of the arguments themselves.
        message: String,
        /// The exit status.
        status: u8,
    },
}

/// Parses the arguments, of which the first is the program's name.
pub fn parse(args: &[OsString]) -> Result<Cli, Stop> {
    let mut definition = Cli::command();
    let scan = Scan::new(&definition, args);
    let status = if scan.has_guest_command() { FAILURE } else { USAGE_ERROR };
    if let Some(message) = scan.items().iter().find_map(misread) {
        return Err(Stop::Wrong { message, status });
    }
    let parsed = definition.try_get_matches_from_mut(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = parsed.map_err(|error| {
        if error.use_stderr() {
            let mut definition = Cli::command();
            definition.build();
            Stop::Wrong { message: explain(&error, &Scan::new(&definition, args)), status }
        } else {
            Stop::Help(error)
        }
    })?;
    let program = || args.first().cloned().unwrap_or_default();
    match cli.command {
        Command::Help { command } => {
            parse(&[program()].into_iter().chain(command).chain(["--help".into()]).collect::<Vec<_>>())
        }
        Command::Version => parse(&[program(), "--version".into()]),
        _ => Ok(cli),
    }
}

/// The reports that a run names, whatever else is wrong with its arguments; none where only a plan is asked for.
pub fn named_reports(args: &[OsString]) -> Vec<OsString> {
    let definition = Cli::command();
    let scan = Scan::new(&definition, args);
    let is_option =
        |item: &Item, name: &str| matches!(item, Item::Option(option, _) if option.get_long() == Some(name));
    if !scan.runs() || scan.items().iter().any(|item| is_option(item, "dry-run")) {
        return Vec::new();
    }
    let reports = scan.items().iter().filter(|item| is_option(item, "report"));
    let value = |item: &Item| if let Item::Option(_, Some(value)) = item { Some((*value).to_owned()) } else { None };
    reports.filter_map(value).collect()
}

impl Stop {
    /// Tells it to the user.
    pub fn tell(self) -> ExitCode {
        let (message, status) = match self {
            Self::Wrong { message, status } => (message, status),
            Self::Help(help) => match help.print() {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    (format!("Cannot write to standard output: {error}"), FAILURE)
                }
                _ => return ExitCode::SUCCESS,
            },
        };
        output::complain(message);
        ExitCode::from(status)
    }
}

/// What is said of an argument that the parser would take for something else than was meant.
fn misread(item: &Item) -> Option<String> {
    match item {
        Item::Answered(word, answer) => Some(format!("There is no option `{word}`: {answer}")),
        Item::OneDash(word) => Some(format!("There is no option `{word}`: with two dashes, `-{word}` is one")),
        Item::Together(letter, text) => {
            let prints = if *letter == 'h' { "help" } else { "the version" };
            Some(format!("There is no option `{text}`: `-{letter}` stands alone and prints {prints}"))
        }
        _ => None,
    }
}

/// What the parser found wrong, and what to do about it.
fn explain(error: &clap::Error, scan: &Scan) -> String {
    let own = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            Some("No command is given; see `carpel --help`".into())
        }
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => scan.items().iter().find_map(|item| match item {
            Item::Unknown(word) => Some(unknown_option(word, scan)),
            Item::Stray(word) => Some(stray(&word.to_string_lossy(), scan)),
            _ => None,
        }),
        ErrorKind::InvalidUtf8 => scan.items().iter().find_map(no_text),
        _ => None,
    };
    own.unwrap_or_else(|| one_line(&error.render().to_string()))
}

fn unknown_option(word: &str, scan: &Scan) -> String {
    let advice = match (guess(word, scan.options().flat_map(names)), elsewhere(word, scan)) {
        (Some(name), _) => format!("tip: a similar argument exists: '--{name}'"),
        (None, Some((command, option))) => format!("`{command}` has '{option}'"),
        (None, None) => format!("see `{}`", help(scan)),
    };
    format!("Unexpected argument '{word}' found; {advice}")
}

/// The command that has this option, and how it is written there.
fn elsewhere(word: &str, scan: &Scan) -> Option<(String, String)> {
    if ["-V", "--version"].contains(&word) {
        return Some(("carpel".into(), word.into()));
    }
    let name = word.trim_start_matches('-');
    let letter = name.chars().next().filter(|_| name.chars().count() == 1 && !word.starts_with("--"));
    let has = |arg: &Arg| names(arg).any(|long| long == name) || letter.is_some() && arg.get_short() == letter;
    let owner = scan.root().get_subcommands().find(|command| command.get_arguments().any(has))?;
    let option = if letter.is_some() { word.into() } else { format!("--{name}") };
    Some((format!("carpel {}", owner.get_name()), option))
}

/// A word that is neither an option nor its value.
fn stray(word: &str, scan: &Scan) -> String {
    let Some(command) = scan.command().map(Definition::get_name) else {
        return unknown_command(word, scan);
    };
    let has_kernel = scan.options().any(|option| option.get_long() == Some("kernel"));
    let advice = match word {
        "help" => format!("`carpel help {command}` prints help"),
        _ if scan.runs() && word.contains('=') => "words of the kernel command line are added by --append TEXT".into(),
        _ if has_kernel => format!("see `{}`: a kernel is named by --kernel FILE", help(scan)),
        _ => format!("see `{}`", help(scan)),
    };
    format!("Unexpected argument '{word}' found; {advice}")
}

fn unknown_command(word: &str, scan: &Scan) -> String {
    let advice = match (words::command(word), guess(word, scan.root().get_subcommands().map(Definition::get_name))) {
        (Some(answer), _) => answer.to_owned(),
        (None, Some(name)) => format!("a similar one exists: '{name}'"),
        (None, None) => "`carpel run -k FILE` boots a kernel".into(),
    };
    format!("There is no command '{word}': {advice}; see `carpel --help`")
}

fn help(scan: &Scan) -> String {
    let name = scan.command().map(|command| format!("{} ", command.get_name()));
    format!("carpel {}--help", name.unwrap_or_default())
}

/// A value that is no text where the option needs one; paths need none.
fn no_text(item: &Item) -> Option<String> {
    match item {
        Item::Option(option, Some(value)) => {
            let is_path = option.get_value_parser().type_id() == TypeId::of::<PathBuf>();
            let is_text = is_path || value.to_str().is_some();
            let value = value.as_bytes().escape_ascii();
            (!is_text).then(|| format!("Invalid value '{value}' for '{option}': It is not UTF-8"))
        }
        _ => None,
    }
}

/// The name that is at most two letters from a mistyped one. Short words are near to too many.
fn guess<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.trim_start_matches('-');
    let within = match typed.chars().count() {
        0..3 => return None,
        3..5 => 1,
        _ => 2,
    };
    let known = known.filter(|name| name.len().abs_diff(typed.len()) <= 2);
    let distances = known.map(|name| (strsim::osa_distance(typed, name), name));
    distances.filter(|(distance, _)| *distance <= within).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// The parser's text without its advice to put values behind `--`, which comes before a command here.
fn one_line(text: &str) -> String {
    let superfluous = ["Usage:", "For more", "tip: to pass"];
    let is_needed = |line: &&str| !superfluous.iter().any(|start| line.trim_start().starts_with(start));
    let lines: Vec<_> = text.lines().filter(is_needed).collect();
    let paragraphs = lines.split(|line| line.is_empty()).filter(|lines| !lines.is_empty());
    let words = |lines: &[&str]| lines.iter().flat_map(|line| line.split_whitespace()).collect::<Vec<_>>().join(" ");
    let message = paragraphs.map(words).collect::<Vec<_>>().join("; ");
    let mut chars = message.trim_start_matches("error: ").chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests;
