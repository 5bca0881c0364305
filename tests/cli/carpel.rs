//! Runs `carpel` where it shall fail, and looks at how it does.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use carpel_testbed::payload;
use tempfile::tempdir;

use crate::guest::{Outcome, finish};

/// `carpel` with these arguments, as it is run by someone who would see a backtrace if there was one.
pub fn carpel<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carpel"));
    command.args(args).stdin(Stdio::null());
    debuggable(&mut command);
    command
}

/// `carpel run` with the `hello` payload.
pub fn hello(args: &[&str]) -> Command {
    let mut command = carpel(&["run", "-k"]);
    command.arg(payload::path("hello")).args(args);
    command
}

/// Puts a program with its arguments before a command.
pub fn under(wrapper: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(wrapper[0]);
    outer.args(&wrapper[1..]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    debuggable(&mut outer);
    outer
}

/// Runs a command in a mount namespace of its own after a shell script.
pub fn in_namespace(script: &str, command: &Command) -> Command {
    let flags = if is_root() { "-m" } else { "-rm" };
    under(&["unshare", flags, "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"], command)
}

/// Runs a command that may no more than its user: not all that root may.
pub fn without_capabilities(command: &Command) -> Command {
    if is_root() { under(&WITHOUT_CAPABILITIES, command) } else { under(&["env"], command) }
}

/// What drops all capabilities of root's, in a user namespace or out of it.
pub const WITHOUT_CAPABILITIES: [&str; 3] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];

pub fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn debuggable(command: &mut Command) {
    command.env("RUST_BACKTRACE", "1").env_remove("RUST_LOG");
}

/// Runs a command that must fail with this status and one line, which is returned. It must leave no file where it ran.
#[track_caller]
pub fn refusal(command: &mut Command, status: i32) -> String {
    let directory = tempdir().unwrap();
    let line = complaint(finish(command.current_dir(&directory)), status);
    let left = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert!(left.is_empty(), "{left:?} of {command:?}");
    line
}

/// The one line on stderr of a run that ended with this status.
#[track_caller]
pub fn complaint(outcome: Outcome, status: i32) -> String {
    let Outcome { stderr, .. } = outcome.expect_status(status);
    let line = stderr.strip_suffix('\n').unwrap_or_else(|| panic!("{stderr:?}"));
    assert!(line.starts_with("carpel: "), "{stderr}");
    assert!(!line.contains(|char: char| char.is_control()), "{stderr:?}");
    assert!(!line.contains("panicked") && !line.contains("Internal error"), "{stderr}");
    line.to_owned()
}

/// Fails the test if one of the parts is missing.
#[track_caller]
pub fn expect_parts(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}
