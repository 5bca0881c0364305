//! A report as one JSON object.

use carpel_vmm::outcome::Match;
use carpel_vmm::threads::ExitCounts;
use serde::Serialize;

use super::{Run, text};

/// Raised when a field changes its meaning or goes; new ones may come without.
const VERSION: u32 = 1;
/// How every report begins.
pub const BEGINNING: &str = "{\n  \"version\": 1,\n  \"name\": ";

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    name: &'a str,
    start: String,
    outcome: &'static str,
    status: u8,
    message: Option<&'a str>,
    r#match: Option<JsonMatch<'a>>,
    seconds: f64,
    kernel: Option<String>,
    cmdline: &'a str,
    layout: &'static str,
    mem: u64,
    cpus: u32,
    exits: ExitCounts,
    unmapped_accesses: u64,
    console_bytes: u64,
    console_tail: String,
}

#[derive(Serialize)]
struct JsonMatch<'a> {
    option: &'static str,
    pattern: &'a str,
    port: &'a str,
    line: &'a str,
}

impl<'a> From<&'a Match> for JsonMatch<'a> {
    fn from(found: &'a Match) -> Self {
        let Match { option, pattern, port, line } = found;
        Self { option: option.name(), pattern, port, line }
    }
}

/// The object, on lines of its own.
pub fn write(run: &Run) -> serde_json::Result<String> {
    let Run { config, plan, facts, .. } = run;
    let json = Json {
        version: VERSION,
        name: &run.name,
        start: run.start.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        outcome: facts.outcome.name(),
        status: facts.outcome.status(),
        message: run.message.as_deref(),
        r#match: facts.matched.as_ref().map(JsonMatch::from),
        seconds: facts.duration.as_secs_f64(),
        kernel: config.kernel.as_deref().map(|kernel| kernel.to_string_lossy().into_owned()),
        cmdline: &plan.cmdline,
        layout: plan.map.layout,
        mem: plan.map.mem,
        cpus: plan.vcpus,
        exits: facts.exits,
        unmapped_accesses: facts.unmapped,
        console_bytes: facts.printed,
        console_tail: text::decode(&facts.console_tail).into_owned(),
    };
    Ok(serde_json::to_string_pretty(&json)? + "\n")
}
