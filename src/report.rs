//! `--report`: the facts of a run, for scripts.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use carpel_devices::endpoint;
use carpel_devices::leftover::Leftover;
use carpel_vmm::config::Config;
use carpel_vmm::plan::Plan;
use carpel_vmm::run::Facts;
use carpel_vmm::threads::ExitCounts;
use serde::Serialize;

/// A report's file, opened before the run so that a wrong name is noticed before time is spent. What it held stays until
/// the run has ended, and a new one goes again if there was none.
pub struct Report {
    path: PathBuf,
    file: File,
    /// A new file, which nobody needs unless it is written.
    vain: Option<Leftover>,
}

#[derive(Serialize)]
struct Json<'a> {
    outcome: &'static str,
    status: u8,
    message: Option<String>,
    seconds: f64,
    kernel: Option<&'a Path>,
    cmdline: &'a str,
    layout: &'static str,
    mem: u64,
    cpus: u32,
    exits: ExitCounts,
    unmapped_accesses: u64,
    console_bytes: u64,
}

impl Report {
    /// Opens the file, or creates it.
    pub fn open(path: &Path) -> Result<Self> {
        let open = |options: &mut OpenOptions| options.write(true).open(path);
        let (opened, vain) = match Leftover::create(path, || open(File::options().create_new(true))) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => (open(File::options().create(true)), None),
            Err(error) => (Err(error), None),
            Ok((file, vain)) => (Ok(file), Some(vain)),
        };
        let context = || format!("Cannot write the report to {}", path.display());
        let file = opened.with_context(context)?;
        endpoint::claim(&file).with_context(context)?;
        Ok(Self { path: path.to_owned(), file, vain })
    }

    /// Writes the facts: as JUnit if the file's name ends in `.xml`, as JSON otherwise.
    pub fn write(mut self, config: &Config, plan: &Plan, facts: &Facts) -> Result<()> {
        if let Some(vain) = self.vain.take() {
            vain.keep();
        }
        let junit = self.path.extension().is_some_and(|extension| extension == "xml");
        let text = if junit { junit_text(config, facts) } else { json_text(config, plan, facts)? };
        self.replace(&text).with_context(|| format!("Cannot write the report to {}", self.path.display()))
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        endpoint::empty(&self.file)?;
        self.file.write_all(text.as_bytes())
    }
}

fn json_text(config: &Config, plan: &Plan, facts: &Facts) -> Result<String> {
    let json = Json {
        outcome: facts.outcome.name(),
        status: facts.outcome.status(),
        message: facts.outcome.message(),
        seconds: facts.duration.as_secs_f64(),
        kernel: config.kernel.as_deref(),
        cmdline: &plan.cmdline,
        layout: plan.map.layout,
        mem: plan.map.mem,
        cpus: plan.vcpus,
        exits: facts.exits,
        unmapped_accesses: facts.unmapped,
        console_bytes: facts.printed,
    };
    Ok(serde_json::to_string_pretty(&json)? + "\n")
}

/// One test case, in the dialect that CI services read.
fn junit_text(config: &Config, facts: &Facts) -> String {
    let name = config.kernel.as_deref().map(|kernel| kernel.display().to_string()).unwrap_or_default();
    let (name, seconds) = (escape(&name), facts.duration.as_secs_f64());
    let failures = u8::from(facts.outcome.status() != 0);
    let failure = match facts.outcome.status() {
        0 => String::new(),
        status => {
            let message = facts.outcome.message().unwrap_or_else(|| format!("Status {status}"));
            let (kind, message) = (facts.outcome.name(), escape(&message));
            format!("<failure type=\"{kind}\" message=\"{message}\"/>")
        }
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuite name=\"carpel\" tests=\"1\" failures=\"{failures}\" time=\"{seconds:.3}\">\n  \
         <testcase classname=\"boot\" name=\"{name}\" time=\"{seconds:.3}\">{failure}</testcase>\n\
         </testsuite>\n"
    )
}

/// Text for an XML attribute; characters that XML cannot hold are replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            char if char.is_control() || matches!(char, '\u{FFFE}' | '\u{FFFF}') => escaped.push('\u{FFFD}'),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_holds_any_text() {
        assert_eq!(escape("a<b> & \"c\"\n\x1b[0m"), "a&lt;b&gt; &amp; &quot;c&quot;&#10;\u{FFFD}[0m");
    }
}
