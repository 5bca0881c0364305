//! A report as JUnit, in the dialect that the schemas of Ant (windyroad's JUnit.xsd) and of Jenkins (junit-10.xsd)
//! share: one suite with its properties, one case, and what the console printed.

use std::fmt::Write as _;

use carpel_vmm::outcome::Outcome;
use nix::sys::utsname::uname;

use super::Run;
use super::text::{clean, escape, escape_attribute};

/// How many lines of the console a failure shows where no line was matched.
const LAST_LINES: usize = 100;

/// How every report begins.
pub const BEGINNING: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"carpel\" ";

/// What a test case can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// The guest's own: it panicked, died, hung, took too long, said what it must not, or gave a value.
    Failure,
    /// There is none, for the run itself went wrong or was given up.
    Error,
}

impl Verdict {
    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Failed(_) | Outcome::Signal(_) | Outcome::Escape => Self::Error,
            outcome if outcome.status() == 0 => Self::Passed,
            _ => Self::Failure,
        }
    }

    const fn element(self) -> Option<&'static str> {
        match self {
            Self::Passed => None,
            Self::Failure => Some("failure"),
            Self::Error => Some("error"),
        }
    }
}

/// The document.
pub fn write(run: &Run) -> String {
    let verdict = Verdict::of(&run.facts.outcome);
    let count = |counted| u8::from(verdict == counted);
    let (failures, errors) = (count(Verdict::Failure), count(Verdict::Error));
    let time = format!("{:.3}", run.facts.duration.as_secs_f64());
    let (timestamp, hostname) = (run.start.strftime("%Y-%m-%dT%H:%M:%S"), escape_attribute(&hostname()));
    let console = clean(&run.facts.console_tail);
    let mut document = format!(
        "{BEGINNING}tests=\"1\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"0\" \
         time=\"{time}\" timestamp=\"{timestamp}\" hostname=\"{hostname}\">\n  <properties>\n"
    );
    for (name, value) in properties(run) {
        // Writing to a String cannot fail.
        let _ = writeln!(document, "    <property name=\"{name}\" value=\"{}\"/>", escape_attribute(&value));
    }
    let (name, case) = (escape_attribute(&run.name), outcome_element(verdict, run, &console));
    let _ = write!(
        document,
        "  </properties>\n  <testcase classname=\"boot\" name=\"{name}\" time=\"{time}\">{case}</testcase>\n  \
         <system-out>{}</system-out>\n  <system-err>{}</system-err>\n</testsuite>\n",
        escape(&console),
        escape(&run.message.as_deref().map(|message| format!("carpel: {message}\n")).unwrap_or_default())
    );
    document
}

/// What went wrong, with what the guest printed about it.
fn outcome_element(verdict: Verdict, run: &Run, console: &str) -> String {
    let Some(element) = verdict.element() else { return String::new() };
    let outcome = &run.facts.outcome;
    let message = run.message.clone().unwrap_or_else(|| format!("Status {}", outcome.status()));
    let line = run.facts.matched.as_ref().map(|found| found.line.as_str());
    let (kind, attribute) = (outcome.name(), escape_attribute(&message));
    let text = escape(&format!("{message}\n\n{}", evidence(console, line)));
    format!("<{element} type=\"{kind}\" message=\"{attribute}\">{}</{element}>", text.trim_end())
}

/// The console from the matched line on, or its last lines.
fn evidence<'a>(console: &'a str, line: Option<&str>) -> &'a str {
    let matched = line.filter(|line| !line.is_empty()).and_then(|line| console.rfind(line));
    let lines = || console.trim_end().rmatch_indices('\n').nth(LAST_LINES - 1).map_or(0, |(at, _)| at + 1);
    &console[matched.unwrap_or_else(lines)..]
}

fn properties(run: &Run) -> Vec<(&'static str, String)> {
    let Run { config, plan, facts, .. } = run;
    let mut properties = vec![
        ("outcome", facts.outcome.name().to_owned()),
        ("status", facts.outcome.status().to_string()),
        ("cmdline", plan.cmdline.clone()),
        ("layout", plan.map.layout.to_owned()),
        ("mem", plan.map.mem.to_string()),
        ("cpus", plan.vcpus.to_string()),
        ("console_bytes", facts.printed.to_string()),
    ];
    properties.extend(config.kernel.as_deref().map(|kernel| ("kernel", kernel.to_string_lossy().into_owned())));
    if let Some(found) = &facts.matched {
        properties.extend([
            ("match.option", found.option.name().to_owned()),
            ("match.pattern", found.pattern.clone()),
            ("match.port", found.port.clone()),
            ("match.line", found.line.clone()),
        ]);
    }
    properties
}

/// The host's name, or the one that the schema wants where there is none.
fn hostname() -> String {
    let name = uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name }
}
