//! Hosts: where a real Linux guest can run under carpel.
//!
//! Where this machine's /dev/kvm can run an unmodified Linux, that is this machine. Elsewhere it is an emulated one: QEMU emulates
//! a CPU with virtualization extensions, and in it the distribution's kernel has a /dev/kvm like that of real hardware. Both
//! run the same shell scripts ("steps") with the same driver, and print the same transcript.

mod emulated;
mod process;
mod step;
mod transcript;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::arch::Architecture;
use crate::say::Task;
use crate::workspace;
use emulated::Emulated;
use process::Process;
pub use step::{Check, Outcome, Output, Step};
use transcript::{Event, Transcript};

/// Guests in one boot of an emulated host. After dozens of monitors, 3 of 10 hosts stopped (QEMU busy, cause unknown).
const GUESTS_PER_BOOT: usize = 10;
/// How long a host may take to boot, and be silent beyond the limit of the step that runs.
const HOST_SLACK: Duration = Duration::from_mins(1);
/// How often a host that stopped is booted again.
const RETRIES: usize = 1;

/// Runs a step's script in a session of its own, so that its limit ends all that it started. Numbers are the step's and its limit in
/// seconds; times are seconds since the boot.
const DRIVER: &str = r#"
now() { cut -d' ' -f1 /proc/uptime; }
step() {
    printf '\n@@begin %s %s\n' "$1" "$(now)"
    setsid sh "./step-$1" </dev/null 2>&1 &
    pid=$!
    (sleep "$2" >/dev/null 2>&1; printf '\n@@limit %s\n' "$1"; kill -KILL "-$pid") &
    watch=$!
    wait "$pid" 2>/dev/null
    status=$?
    kill "$watch" 2>/dev/null
    kill -KILL "-$pid" 2>/dev/null
    printf '\n@@end %s %s %s\n' "$1" "$status" "$(now)"
}
"#;

/// What is shown of a host's output while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Nothing: only progress.
    Nothing,
    /// What the steps print.
    Steps,
    /// The host's own console too.
    Everything,
}

/// A host that can be booted any number of times.
pub struct Host {
    arch: &'static Architecture,
    emulated: Option<Emulated>,
    files: Vec<(String, PathBuf)>,
    echo: Echo,
    boots: usize,
    lost: usize,
}

impl Host {
    /// Chooses between this machine and an emulated one, and says in one line what and why.
    pub fn choose(arch: &'static Architecture, echo: Echo) -> Result<Self> {
        let emulated = match why_not_this_machine(arch) {
            None => {
                println!("   host: this machine, for its /dev/kvm can run an unmodified Linux");
                None
            }
            Some(reason) => {
                println!("   host: {} under QEMU's emulation, for {reason}", arch.host);
                Some(Emulated::obtain(arch)?)
            }
        };
        Ok(Self { arch, emulated, files: Vec::new(), echo, boots: 0, lost: 0 })
    }

    /// Puts a copy of `source` into the directory in which steps run.
    pub fn file(&mut self, name: &str, source: &Path) -> &mut Self {
        self.files.push((name.to_owned(), source.to_owned()));
        self
    }

    /// How many boots of the host stopped before their last step.
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// How often the host was booted.
    pub fn boots(&self) -> usize {
        self.boots
    }

    /// Runs the steps in order, in few boots of the host, and prints a line for each.
    pub fn run(&mut self, steps: &[Step]) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for batch in batches(steps) {
            let mut todo: VecDeque<&Step> = batch.iter().collect();
            for _ in 0..=RETRIES {
                if self.boot(&mut todo, &mut outcomes)? {
                    break;
                }
                self.lost += 1;
                println!(
                    "   the host stopped (lost so far: {} of {} boots); {} steps to go",
                    self.lost,
                    self.boots,
                    todo.len()
                );
            }
            for step in todo {
                let outcome = step.fail("Its host stopped, and again when retried");
                println!("{}", outcome.line());
                outcomes.push(outcome);
            }
        }
        Ok(outcomes)
    }

    /// Boots once and moves the steps that end from `todo` to `outcomes`. Whether the host came to its own end.
    fn boot(&mut self, todo: &mut VecDeque<&Step>, outcomes: &mut Vec<Outcome>) -> Result<bool> {
        self.boots += 1;
        let scripts = scripts(todo.iter().copied());
        let directory = tempfile::tempdir().context("Creating a directory for the host")?;
        let mut command = match &self.emulated {
            Some(emulated) => emulated.command(directory.path(), &self.files, &scripts)?,
            None => self.directly(directory.path(), &scripts)?,
        };
        let mut log = self.log()?;
        let mut task = Task::start(format!("host boot {}", self.boots));
        let process = Process::start(&mut command)?;

        let limits = todo.iter().map(|step| step.limit);
        let silence = limits.clone().max().unwrap_or_default() + HOST_SLACK;
        let deadline = Instant::now() + limits.sum::<Duration>() + HOST_SLACK;
        let mut transcript = Transcript::default();
        while let Some(line) = process.line(silence.min(deadline.saturating_duration_since(Instant::now()))) {
            log.write_all(line.as_bytes())?;
            log.write_all(b"\n")?;
            match transcript.feed(&line) {
                Event::Host => self.show(&task, Echo::Everything, &line),
                Event::Text => self.show(&task, Echo::Steps, &line),
                Event::Begin => task.news(todo.front().map_or("", |step| &step.name)),
                Event::End(output) => {
                    let Some(step) = todo.pop_front() else { bail!("The host ran a step too many") };
                    let outcome = step.judge(output);
                    task.line(&outcome.line());
                    outcomes.push(outcome);
                }
                Event::Done => {
                    task.done();
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn directly(&self, directory: &Path, scripts: &[(String, String)]) -> Result<Command> {
        for (name, text) in scripts {
            fs::write(directory.join(name), text)?;
        }
        for (name, source) in &self.files {
            symlink(source, directory.join(name)).with_context(|| format!("Linking {}", source.display()))?;
        }
        let mut command = Command::new("sh");
        command.arg("./steps").current_dir(directory);
        Ok(command)
    }

    fn show(&self, task: &Task, needed: Echo, line: &str) {
        if !line.is_empty() && (self.echo == Echo::Everything || self.echo == needed) {
            task.line(&format!("   | {line}"));
        }
    }

    /// Where this boot's transcript goes.
    fn log(&self) -> Result<File> {
        let path = workspace::logs().join(format!("{}-host-{}.log", self.arch.host, self.boots));
        fs::create_dir_all(workspace::logs())?;
        File::create(&path).with_context(|| format!("Creating {}", path.display()))
    }
}

/// Why a guest Linux cannot run on this machine's own /dev/kvm; none if it can.
fn why_not_this_machine(arch: &Architecture) -> Option<String> {
    if !arch.is_native() {
        return Some(format!("this machine is {}", std::env::consts::ARCH));
    }
    if let Err(err) = File::options().read(true).write(true).open("/dev/kvm") {
        return Some(format!("this machine's /dev/kvm does not open ({err})"));
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let runs_guests = flags.split_whitespace().any(|flag| arch.kvm_flags.contains(&flag));
    (!runs_guests)
        .then(|| format!("this machine's CPU shows none of {}: its /dev/kvm is software", arch.kvm_flags.join(", ")))
}

/// Consecutive steps that share a boot.
fn batches(steps: &[Step]) -> Vec<&[Step]> {
    let mut batches = Vec::new();
    let mut start = 0;
    let mut guests = 0;
    for (index, step) in steps.iter().enumerate() {
        if index > start && guests + step.guests > GUESTS_PER_BOOT {
            batches.push(&steps[start..index]);
            start = index;
            guests = 0;
        }
        guests += step.guests;
    }
    if start < steps.len() {
        batches.push(&steps[start..]);
    }
    batches
}

/// The driver `steps` and the script of each step, as files.
fn scripts<'a>(steps: impl Iterator<Item = &'a Step> + Clone) -> Vec<(String, String)> {
    let seconds = |step: &Step| step.limit.as_secs().max(1);
    let calls = steps.clone().enumerate().map(|(index, step)| format!("step {index} {}", seconds(step)));
    let end = "printf '\\n@@done\\n'".to_owned();
    let driver = [DRIVER.to_owned()].into_iter().chain(calls).chain([end]).collect::<Vec<_>>().join("\n") + "\n";
    let mut files = vec![("steps".to_owned(), driver)];
    files.extend(steps.enumerate().map(|(index, step)| (format!("step-{index}"), step.script.clone())));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(script: &str, guests: usize) -> Step {
        let check: Check =
            Box::new(|output| if output.status == 0 { Ok(()) } else { bail!("status {}", output.status) });
        Step { name: script.to_owned(), script: script.to_owned(), limit: Duration::from_secs(2), guests, check }
    }

    /// This machine as the host: steps that boot no guest run anywhere.
    fn direct() -> Host {
        Host { arch: &crate::arch::X86_64, emulated: None, files: Vec::new(), echo: Echo::Nothing, boots: 0, lost: 0 }
    }

    #[test]
    fn steps_run_in_order_and_each_has_its_own_output_and_status() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "content").unwrap();
        let mut host = direct();
        host.file("given", file.path());
        let steps = [
            step("cat given; echo; echo error >&2", 1),
            step("exit 3", 1),
            step("printf unfinished; sleep 60 & sleep 60", 1),
        ];
        let outcomes = host.run(&steps).unwrap();
        let output = |index: usize| outcomes[index].output.as_ref().unwrap();
        assert_eq!((output(0).status, output(0).text.as_str()), (0, "content\nerror\n"));
        assert_eq!(outcomes[1].verdict.as_ref().unwrap_err().to_string(), "status 3");
        assert!(output(2).out_of_time && output(2).text == "unfinished\n", "{:?}", output(2));
        assert!(outcomes[2].verdict.as_ref().unwrap_err().to_string().contains("after 2 s"));
        assert_eq!((host.boots(), host.lost()), (1, 0));
    }

    #[test]
    fn a_host_that_stops_is_booted_once_more_for_what_is_left() {
        // The first step succeeds; the second ends the driver itself, so that its host never says that it is done.
        let steps = [step("true", 1), step("kill -KILL $PPID", 1)];
        let mut host = direct();
        let outcomes = host.run(&steps).unwrap();
        assert!(outcomes[0].verdict.is_ok());
        assert!(outcomes[1].verdict.as_ref().unwrap_err().to_string().contains("retried"));
        assert_eq!((host.boots(), host.lost()), (2, 2));
    }

    #[test]
    fn a_boot_has_ten_guests_at_most() {
        let steps: Vec<_> = [4, 6, 1, 12, 3].iter().map(|&guests| step("true", guests)).collect();
        let lengths: Vec<_> = batches(&steps).iter().map(|batch| batch.len()).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
        assert!(batches(&[]).is_empty());
    }
}
