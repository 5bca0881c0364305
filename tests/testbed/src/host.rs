//! Hosts: where a real Linux guest can run under carpel.
//!
//! Where this machine's /dev/kvm can run an unmodified Linux, that is this machine. Elsewhere it is an emulated one: QEMU emulates
//! a CPU with virtualization extensions, and in it the distribution's kernel has a /dev/kvm like that of real hardware. Both
//! run the same shell scripts ("steps") with the same driver, and print the same transcript.

mod emulated;
mod process;
mod qemu;
mod step;
mod transcript;
mod watch;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::arch::Architecture;
use crate::say::Task;
use crate::workspace;
use emulated::Emulated;
use process::{Line, NoLine, Process};
pub use qemu::{Origin, Qemu};
pub use step::{Check, Outcome, Output, Step};
use transcript::{Event, Transcript};
use watch::{BEAT, Loss, Watch};

/// Guests in one boot of an emulated host. After dozens of monitors, 3 of 10 hosts stopped (QEMU busy, cause unknown).
const GUESTS_PER_BOOT: usize = 10;
/// How often a step whose host was lost is repeated, in another boot.
const REPEATS: usize = 1;
/// After so many boots in a row that lost their host before a step began, no other is tried.
const FUTILE_BOOTS: usize = 2;

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
    wait "$pid"
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
    lost: Vec<String>,
}

/// A step that has not ended, and how often a host was lost that ran it.
struct Pending<'a> {
    step: &'a Step,
    losses: usize,
}

/// A boot that did not come to its end.
struct Lost {
    why: Loss,
    /// Whether a step ran, and not the host's own start.
    ran: bool,
}

impl Host {
    /// Chooses between this machine and an emulated one, and says in a line each which, and by which QEMU: the one that is `asked` for,
    /// else the usual one.
    pub fn choose(arch: &'static Architecture, echo: Echo, asked: Option<Origin>) -> Result<Self> {
        let Some(reason) = why_not_this_machine(arch) else {
            println!("   host: this machine, for its /dev/kvm can run an unmodified Linux");
            return Ok(Self::direct(arch, echo));
        };
        println!("   host: {} under QEMU's emulation, for {reason}", arch.host);
        Self::emulated(arch, echo, asked)
    }

    /// Whether hosts of this kind are emulated on this machine.
    pub fn needs_emulation(arch: &Architecture) -> bool {
        why_not_this_machine(arch).is_some()
    }

    /// An emulated host, also where this machine could do.
    pub fn emulated(arch: &'static Architecture, echo: Echo, asked: Option<Origin>) -> Result<Self> {
        Ok(Self { emulated: Some(Emulated::obtain(arch, asked)?), ..Self::direct(arch, echo) })
    }

    /// This machine as the host.
    fn direct(arch: &'static Architecture, echo: Echo) -> Self {
        Self { arch, emulated: None, files: Vec::new(), echo, boots: 0, lost: Vec::new() }
    }

    /// What its logs are called by: its architecture, and what it is emulated by where there are several.
    pub fn name(&self) -> String {
        let kind = self.emulated.as_ref().and_then(Emulated::kind).map_or(String::new(), |kind| format!("-{kind}"));
        format!("{}{kind}", self.arch.host)
    }

    /// What it is, for people.
    pub fn describe(&self) -> String {
        self.emulated.as_ref().map_or_else(|| "this machine".to_owned(), Emulated::describe)
    }

    /// Puts a copy of `source` into the directory in which steps run.
    pub fn file(&mut self, name: &str, source: &Path) -> &mut Self {
        self.files.push((name.to_owned(), source.to_owned()));
        self
    }

    /// The boots of the host that did not come to their end: which, while what ran, and why.
    pub fn lost(&self) -> &[String] {
        &self.lost
    }

    /// How often the host was booted.
    pub fn boots(&self) -> usize {
        self.boots
    }

    /// Runs the steps in order, in few boots of the host, and prints a line for each.
    pub fn run(&mut self, steps: &[Step]) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for batch in batches(steps) {
            let mut todo = batch.iter().map(|step| Pending { step, losses: 0 }).collect();
            self.run_batch(&mut todo, &mut outcomes)?;
        }
        Ok(outcomes)
    }

    /// Boots until every step has ended or was lost with its host as often as may be.
    fn run_batch(&mut self, todo: &mut VecDeque<Pending>, outcomes: &mut Vec<Outcome>) -> Result<()> {
        let mut futile = 0;
        while !todo.is_empty() {
            let before = todo.len();
            let Some(Lost { why, ran }) = self.boot(todo, outcomes)? else { return Ok(()) };
            let running = todo.front().filter(|_| ran).map(|pending| &pending.step.name);
            let when = running.map_or_else(|| "while no step ran".to_owned(), |name| format!("in {name:?}"));
            self.lost.push(format!("{} boot {}, {when}: {why}", self.name(), self.boots));
            futile = if ran || todo.len() < before { 0 } else { futile + 1 };
            let given_up = if futile == FUTILE_BOOTS { todo.len() } else { usize::from(ran && repeated(todo)) };
            for Pending { step, .. } in todo.drain(..given_up) {
                let outcome = step.fail(&format!("Its host was lost, and again when this was repeated: {why}"));
                println!("{}", outcome.line());
                outcomes.push(outcome);
            }
            self.tell_loss(todo.len())?;
        }
        Ok(())
    }

    /// Says what was lost, also at the end of the boot's log.
    fn tell_loss(&self, left: usize) -> Result<()> {
        let lost = self.lost.last().map_or("", |lost| lost);
        println!("   host lost: {lost} ({} of {} boots so far; {left} steps left)", self.lost.len(), self.boots);
        let mut log = File::options().append(true).open(self.log_path())?;
        Ok(writeln!(log, "host lost: {lost}")?)
    }

    /// Boots once and moves the steps that end from `todo` to `outcomes`. None if the host came to its own end.
    fn boot(&mut self, todo: &mut VecDeque<Pending>, outcomes: &mut Vec<Outcome>) -> Result<Option<Lost>> {
        self.boots += 1;
        let scripts = scripts(todo.iter().map(|pending| pending.step));
        let directory = tempfile::tempdir().context("Creating a directory for the host")?;
        let mut command = match &self.emulated {
            Some(emulated) => emulated.command(directory.path(), &self.files, &scripts)?,
            None => self.directly(directory.path(), &scripts)?,
        };
        let mut log = self.log()?;
        let mut task = Task::start(format!("{} boot {}", self.name(), self.boots));
        let process = Process::start(&mut command)?;
        let mut watch = Watch::start(Instant::now(), self.emulated.is_some());
        let mut transcript = Transcript::default();
        loop {
            let line = process.line(watch.deadline());
            let now = Instant::now();
            let loss = match line {
                Ok(Line::Console(line)) => {
                    writeln!(log, "host: {line}")?;
                    self.show(&task, Echo::Everything, &line);
                    watch.console(now, &line)
                }
                Ok(Line::Steps(line)) => {
                    writeln!(log, "{line}")?;
                    let event = transcript.feed(&line);
                    if event == Event::Done {
                        task.done();
                        return Ok(None);
                    }
                    self.follow(event, &line, (&mut task, &mut watch), todo, outcomes)?;
                    None
                }
                Err(NoLine::Yet) => None,
                Err(NoLine::EverAgain) => Some(watch.ended()),
            };
            if let Some(why) = loss.or_else(|| watch.expired(now)) {
                return Ok(Some(Lost { why, ran: transcript.is_running() }));
            }
        }
    }

    /// Does what an event of the transcript asks for.
    fn follow(
        &self,
        event: Event,
        line: &str,
        (task, watch): (&mut Task, &mut Watch),
        todo: &mut VecDeque<Pending>,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<()> {
        match event {
            Event::Host => self.show(task, Echo::Everything, line),
            Event::Text | Event::Done => self.show(task, Echo::Steps, line),
            Event::Begin => {
                let Some(Pending { step, .. }) = todo.front() else { bail!("The host began a step too many") };
                task.news(&step.name);
                watch.step(Instant::now(), step.limit);
            }
            Event::End(output) => {
                let Some(Pending { step, .. }) = todo.pop_front() else { bail!("The host ran a step too many") };
                watch.between(Instant::now());
                let outcome = step.judge(output);
                task.line(&outcome.line());
                outcomes.push(outcome);
            }
        }
        Ok(())
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
        if !line.is_empty() && !line.contains(BEAT) && (self.echo == Echo::Everything || self.echo == needed) {
            task.line(&format!("   | {line}"));
        }
    }

    /// Where this boot's transcript goes.
    fn log(&self) -> Result<File> {
        fs::create_dir_all(workspace::logs())?;
        let path = self.log_path();
        File::create(&path).with_context(|| format!("Creating {}", path.display()))
    }

    fn log_path(&self) -> PathBuf {
        workspace::logs().join(format!("{}-host-{}.log", self.name(), self.boots))
    }
}

/// Why a guest Linux cannot run on this machine's own /dev/kvm; none if it can.
fn why_not_this_machine(arch: &Architecture) -> Option<String> {
    let kvm = || File::options().read(true).write(true).open("/dev/kvm").map(drop);
    let cpuinfo = || fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    arch.why_not_this_machine().or_else(|| why_not_this_kvm(arch, kvm(), &cpuinfo()))
}

fn why_not_this_kvm(arch: &Architecture, kvm: io::Result<()>, cpuinfo: &str) -> Option<String> {
    if let Err(err) = kvm {
        return Some(format!("this machine's /dev/kvm does not open ({err})"));
    }
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let runs_guests = flags.split_whitespace().any(|flag| arch.kvm_flags.contains(&flag));
    (!runs_guests && !arch.kvm_flags.is_empty())
        .then(|| format!("this machine's CPU shows none of {}: its /dev/kvm is software", arch.kvm_flags.join(", ")))
}

/// Counts that a host was lost in the first step; whether that was its last chance.
fn repeated(todo: &mut VecDeque<Pending>) -> bool {
    todo.front_mut().is_some_and(|step| {
        step.losses += 1;
        step.losses > REPEATS
    })
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
    use std::time::Duration;

    fn step(script: &str, guests: usize) -> Step {
        let check: Check =
            Box::new(|output| if output.status == 0 { Ok(()) } else { bail!("status {}", output.status) });
        Step { name: script.to_owned(), script: script.to_owned(), limit: Duration::from_secs(2), guests, check }
    }

    /// This machine as the host: steps that boot no guest run anywhere.
    fn direct() -> Host {
        Host::direct(&crate::arch::X86_64, Echo::Nothing)
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
        assert_eq!((host.boots(), host.lost().len()), (1, 0));
    }

    #[test]
    fn a_step_whose_host_is_lost_is_repeated_once_and_the_others_still_run() {
        // The second step ends the driver itself, so that its host never says that it is done.
        let steps = [step("true", 1), step("kill -KILL $PPID", 1), step("true", 1)];
        let mut host = direct();
        let outcomes = host.run(&steps).unwrap();
        let verdicts: Vec<_> = outcomes.iter().map(|outcome| outcome.verdict.is_ok()).collect();
        assert_eq!(verdicts, [true, false, true]);
        let err = outcomes[1].verdict.as_ref().unwrap_err().to_string();
        assert!(err.contains("again when this was repeated"), "{err}");
        assert_eq!((host.boots(), host.lost().len()), (3, 2));
        for lost in host.lost() {
            assert!(lost.contains("in \"kill -KILL $PPID\": it ended early"), "{lost}");
        }
    }

    /// The driver's standard error stands for the console of an emulated host.
    #[test]
    fn a_lockup_of_the_hosts_kernel_loses_the_host_at_once_and_one_on_a_guests_console_does_not() {
        const LOCKUP: &str = "echo '[  241.5] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [vcpu0]'";
        let mut guest = step(&format!("{LOCKUP}; {LOCKUP} >&2"), 1);
        guest.limit = Duration::from_mins(1);
        // The host repeats itself, and its step never ends.
        let mut wedged = step(&format!("while sleep 0.1; do {LOCKUP} >/proc/$PPID/fd/2; done"), 1);
        wedged.limit = Duration::from_mins(1);
        let began = Instant::now();
        let mut host = direct();
        let outcomes = host.run(&[guest, wedged, step("true", 1)]).unwrap();
        let verdicts: Vec<_> = outcomes.iter().map(|outcome| outcome.verdict.is_ok()).collect();
        assert_eq!(verdicts, [true, false, true]);
        assert!(outcomes[0].output.as_ref().unwrap().text.contains("soft lockup"));
        assert_eq!(host.lost().len(), 2);
        let expected = "its kernel said \"watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [vcpu0]\"";
        assert!(host.lost()[0].ends_with(expected), "{:?}", host.lost());
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_kvm_is_software_only_where_its_processor_could_say_so_and_does_not() {
        let (pc, arm) = (&crate::arch::X86_64, &crate::arch::AARCH64);
        let flags = |flag: &str| format!("model name\t: x\nflags\t\t: fpu {flag} sse\n");
        assert_eq!(why_not_this_kvm(pc, Ok(()), &flags("svm")), None);
        assert!(why_not_this_kvm(pc, Ok(()), &flags("de")).unwrap().contains("none of vmx, svm"));
        assert_eq!(why_not_this_kvm(arm, Ok(()), "Features\t: fp asimd\n"), None);
        let missing = || Err(io::Error::from(io::ErrorKind::NotFound));
        assert!(why_not_this_kvm(arm, missing(), "").unwrap().contains("does not open"));
        assert!(why_not_this_kvm(pc, missing(), &flags("svm")).unwrap().contains("does not open"));
    }

    #[test]
    fn a_boot_has_ten_guests_at_most() {
        let steps: Vec<_> = [4, 6, 1, 12, 3].iter().map(|&guests| step("true", guests)).collect();
        let lengths: Vec<_> = batches(&steps).iter().map(|batch| batch.len()).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
        assert!(batches(&[]).is_empty());
    }
}
