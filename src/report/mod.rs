//! `--report`: the facts of a run, for scripts.

mod earlier;
mod file;
mod json;
mod junit;
mod place;
mod text;

#[cfg(test)]
#[path = "../../tests/payload/junit.rs"]
mod rules;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result};
use carpel_vmm::config::Config;
use carpel_vmm::plan::Plan;
use carpel_vmm::run::Facts;
use jiff::Timestamp;

use crate::output;
pub use earlier::remove_earlier;
use file::Destination;
use place::{Place, Taken};

/// Where the reports of a run go: nothing is touched yet.
#[derive(Debug)]
pub struct Places(Vec<Place>);

/// The reports of a run, which can be written; those of an earlier one are gone.
#[derive(Debug)]
pub struct Reports(Vec<Report>);

#[derive(Debug)]
struct Report {
    named: PathBuf,
    destination: Destination,
}

/// What there is to report.
#[derive(Debug)]
pub struct Run<'a> {
    /// What the guest should be.
    pub config: &'a Config,
    /// What it was.
    pub plan: &'a Plan,
    /// How it went.
    pub facts: &'a Facts,
    /// What the user was told, without carpel's name.
    pub message: Option<String>,
    /// The test case's name.
    pub name: String,
    /// When carpel was started.
    pub start: Timestamp,
}

impl Places {
    /// Finds the places of a run's reports. Each must be a place of its own, which nothing else of the run uses.
    pub fn find(config: &Config) -> Result<Self> {
        Ok(Self(place::find_all(&config.run.report, &Taken::by(config)?)?))
    }

    /// Makes sure that every report can be written, and removes those of an earlier run. Waits for the reader of a
    /// named pipe.
    pub fn open(self) -> Result<Reports> {
        let open = |Place { named, kind, .. }| {
            let destination = Destination::open(kind).with_context(|| cannot_write(&named))?;
            Ok(Report { named, destination })
        };
        Ok(Reports(self.0.into_iter().map(open).collect::<Result<_>>()?))
    }
}

impl Reports {
    /// Writes all of them, as JUnit where the name ends in `.xml`, as JSON elsewhere. Fails with the last error, after
    /// it has told the others. Files come first, whole; before the rest, of which a reader may take nothing, `files_done`
    /// is called.
    pub fn write(self, run: &Run, files_done: impl FnOnce()) -> Result<()> {
        let (files, streams): (Vec<_>, Vec<_>) =
            self.0.into_iter().partition(|report| matches!(report.destination, Destination::Beside { .. }));
        let mut errors: Vec<_> = files.into_iter().filter_map(|report| report.write(run).err()).collect();
        files_done();
        errors.extend(streams.into_iter().filter_map(|report| report.write(run).err()));
        let last = errors.pop();
        errors.into_iter().for_each(output::complain);
        last.map_or(Ok(()), Err)
    }
}

impl Report {
    fn write(self, run: &Run) -> Result<(), Error> {
        let is_junit = self.named.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("xml"));
        let write = || self.destination.write(&if is_junit { junit::write(run) } else { json::write(run)? });
        write().with_context(|| cannot_write(&self.named))
    }
}

/// What a test case is called that nobody has named: as what boots.
pub fn default_name(config: &Config) -> String {
    let image = config.kernel.as_deref().or(config.firmware.as_deref());
    let name = image.map(|image| image.file_name().unwrap_or(image.as_os_str()).to_string_lossy().into_owned());
    name.unwrap_or_else(|| "guest".into())
}

fn cannot_write(named: &Path) -> String {
    format!("Cannot write the report to {}", named.display())
}
