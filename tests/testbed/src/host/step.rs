//! What runs in a host, and what came of it.

use std::time::Duration;

use anyhow::{Result, anyhow};

/// One script to run in a host, and what its output must be.
pub struct Step {
    /// A name to report it by.
    pub name: String,
    /// What `sh` runs, in the directory of the host's files.
    pub script: String,
    /// How long it may take before it is ended, and fails.
    pub limit: Duration,
    /// How many guests it boots.
    pub guests: usize,
    /// Judges its output. Not called when it ran into its limit.
    pub check: Check,
}

impl Step {
    /// The outcome of this step, which ended with `output`.
    pub(super) fn judge(&self, output: Output) -> Outcome {
        let verdict = if output.out_of_time {
            Err(anyhow!("Not finished after {} s", self.limit.as_secs()))
        } else {
            (self.check)(&output)
        };
        Outcome { name: self.name.clone(), output: Some(output), verdict }
    }

    /// The outcome of this step where it could not run.
    pub(super) fn fail(&self, why: &str) -> Outcome {
        Outcome { name: self.name.clone(), output: None, verdict: Err(anyhow!("{why}")) }
    }
}

/// The judgement of a step's output: an error says what is wrong with it.
pub type Check = Box<dyn Fn(&Output) -> Result<()>>;

/// What a step printed and returned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The script's exit status.
    pub status: i32,
    /// Everything that it printed, without carriage returns.
    pub text: String,
    /// Seconds that it took, in the host's time.
    pub seconds: f64,
    /// Whether its limit ended it.
    pub out_of_time: bool,
}

/// A step that was run, or could not be.
#[derive(Debug)]
pub struct Outcome {
    /// The step's name.
    pub name: String,
    /// What it printed; none when its host stopped.
    pub output: Option<Output>,
    /// The verdict.
    pub verdict: Result<()>,
}

impl Outcome {
    /// One line for a success; for a failure, the reason and the last of the output as well.
    pub(super) fn line(&self) -> String {
        /// Lines of output that a failure repeats; the log has them all.
        const TAIL: usize = 25;

        let name = &self.name;
        let seconds = self.output.as_ref().map_or_else(String::new, |output| format!(" ({:.1} s)", output.seconds));
        let Err(err) = &self.verdict else { return format!("   ok    {name}{seconds}") };
        let lines: Vec<_> = self.output.iter().flat_map(|output| output.text.lines()).collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("\n         | {line}"));
        format!("   FAIL  {name}{seconds}: {err:#}{}", tail.collect::<String>())
    }
}
