//! Watching over a host from outside: its kernel's own complaints, a sign of life, and a clock for whatever it does now.

use std::fmt;
use std::time::{Duration, Instant};

/// What the host's init prints on its console now and then (`emulated.rs`).
pub const BEAT: &str = "@@beat";
/// How long a host may take to its first step.
const BOOT_LIMIT: Duration = Duration::from_mins(2);
/// How long a host may go without a sign of life: six of them are missing then.
const BEAT_LIMIT: Duration = Duration::from_mins(1);
/// What a step may take beyond its limit, which the host's own clock keeps, and what may lie between two steps.
const SLACK: Duration = Duration::from_secs(30);

/// What a kernel says of itself when it goes on badly or not at all (Linux's kernel/watchdog.c, kernel/rcu/tree_stall.h,
/// kernel/hung_task.c, kernel/panic.c, and the oopses of arch/).
const COMPLAINTS: [&str; 7] = [
    "BUG: ",
    "detected stall",
    "self-detected stall",
    "detected expedited stall",
    "hard LOCKUP",
    "Kernel panic - not syncing",
    "Internal error: Oops",
];
/// Before and after the number of seconds that a task hangs.
const HUNG_TASK: [&str; 2] = ["blocked for more than ", " seconds"];

/// Why a host is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its kernel said this.
    Complaint(String),
    /// It gave no sign of life for this long.
    Silence(Duration),
    /// Its step, or what comes before one, did not end within this time.
    Overdue(Duration),
    /// It ended by itself; this was the last line of its console.
    Ended(String),
}

impl fmt::Display for Loss {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Complaint(line) => write!(out, "its kernel said {line:?}"),
            Self::Silence(time) => write!(out, "it gave no sign of life for {} s", time.as_secs()),
            Self::Overdue(time) => write!(out, "it was still at it after {} s", time.as_secs()),
            Self::Ended(line) => write!(out, "it ended early; the last that it said was {line:?}"),
        }
    }
}

/// The clocks of one boot. No output of guests or of the host's kernel puts any of them off.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    limit: Duration,
    /// When the last sign of life came; none for hosts that give none.
    beat: Option<Instant>,
    last_line: String,
}

impl Watch {
    /// A host that starts now; whether it gives signs of life.
    pub fn start(now: Instant, beats: bool) -> Self {
        Self { began: now, limit: BOOT_LIMIT, beat: beats.then_some(now + BOOT_LIMIT), last_line: String::new() }
    }

    /// A step with this limit begins.
    pub fn step(&mut self, now: Instant, limit: Duration) {
        (self.began, self.limit) = (now, limit + SLACK);
    }

    /// A step has ended.
    pub fn between(&mut self, now: Instant) {
        (self.began, self.limit) = (now, SLACK);
    }

    /// A line of the host's console, on which guests cannot write.
    pub fn console(&mut self, now: Instant, line: &str) -> Option<Loss> {
        if line.contains(BEAT) {
            self.beat = self.beat.map(|_| now);
        } else if !line.trim().is_empty() {
            line.clone_into(&mut self.last_line);
        }
        is_complaint(line).then(|| Loss::Complaint(without_time(line).to_owned()))
    }

    /// When the next clock runs out.
    pub fn deadline(&self) -> Instant {
        let step = self.began + self.limit;
        self.beat.map_or(step, |beat| step.min(beat + BEAT_LIMIT))
    }

    /// What a clock that has run out says of the host.
    pub fn expired(&self, now: Instant) -> Option<Loss> {
        if now >= self.began + self.limit {
            return Some(Loss::Overdue(self.limit));
        }
        self.beat.is_some_and(|beat| now >= beat + BEAT_LIMIT).then_some(Loss::Silence(BEAT_LIMIT))
    }

    /// What to say of a host that has ended.
    pub fn ended(&self) -> Loss {
        Loss::Ended(without_time(&self.last_line).to_owned())
    }
}

fn is_complaint(line: &str) -> bool {
    let [before, after] = HUNG_TASK;
    let hung = line.split_once(before).is_some_and(|(_, rest)| rest.contains(after));
    hung || COMPLAINTS.iter().any(|complaint| line.contains(complaint))
}

/// A kernel's line without the seconds since its start.
fn without_time(line: &str) -> &str {
    let rest = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    rest.map_or(line, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LOCKUP: &str = "[  241.504139] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [vcpu0:312]";

    #[test]
    fn the_hosts_own_complaints_lose_it_at_once() {
        for line in [
            LOCKUP,
            "[   99.1] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
            "[   99.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[   99.1] rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 1-... }",
            "[  242.2] INFO: task vcpu1:313 blocked for more than 120 seconds.",
            "[   12.0] BUG: unable to handle page fault for address: ffffc90000a7fff8",
            "[   12.0] Kernel panic - not syncing: stack-protector: Kernel stack is corrupted in: \
             kvm_arch_vcpu_ioctl_run",
            "[   12.0] Internal error: Oops: 0000000096000004 [#1] SMP",
        ] {
            let now = Instant::now();
            let loss = Watch::start(now, true).console(now, line);
            assert!(matches!(loss, Some(Loss::Complaint(_))), "{line}");
        }
    }

    #[test]
    fn what_a_host_says_in_passing_does_not_lose_it() {
        for line in [
            BEAT,
            "",
            "[    3.1] kvm: Nested Virtualization enabled",
            "[    5.0] kvm [301]: vcpu0, guest rIP: 0xffffffff9d06a584 disabled perfctr wrmsr: 0xc0010007 data 0xffff",
            "[    1.0] INFO: lockdep is turned off.",
            "qemu-system-x86_64: warning: TCG doesn't support requested feature: CPUID.01H:ECX.pcid [bit 17]",
        ] {
            let now = Instant::now();
            assert_eq!(Watch::start(now, true).console(now, line), None, "{line}");
        }
    }

    #[test]
    fn lines_of_the_kernel_keep_no_clock_from_running_out() {
        let start = Instant::now();
        let mut watch = Watch::start(start, true);
        watch.step(start, 180 * SECOND);
        watch.console(start, BEAT);
        // A wedged host's kernel repeats itself forever, in this case with words that are not known.
        for second in (0..300).step_by(28) {
            watch.console(start + second * SECOND, "[  300.0] watchdog: something is stuck for 26s!");
        }
        assert_eq!(watch.expired(start + 59 * SECOND), None);
        assert_eq!(watch.expired(start + 60 * SECOND), Some(Loss::Silence(BEAT_LIMIT)));
        assert_eq!(watch.deadline(), start + 60 * SECOND);
    }

    #[test]
    fn signs_of_life_keep_a_host_but_not_beyond_its_steps_limit() {
        let start = Instant::now();
        let mut watch = Watch::start(start, true);
        watch.step(start + 10 * SECOND, 180 * SECOND);
        for second in (10..220).step_by(10) {
            let now = start + second * SECOND;
            assert_eq!(watch.expired(now), None, "{second}");
            assert_eq!(watch.console(now, BEAT), None);
        }
        assert_eq!(watch.expired(start + 220 * SECOND), Some(Loss::Overdue(210 * SECOND)));
        watch.between(start + 220 * SECOND);
        assert_eq!(watch.expired(start + 249 * SECOND), None);
    }

    #[test]
    fn a_host_that_never_comes_up_is_lost_and_a_machine_needs_no_sign_of_life() {
        let start = Instant::now();
        assert_eq!(Watch::start(start, true).expired(start + BOOT_LIMIT), Some(Loss::Overdue(BOOT_LIMIT)));
        let mut watch = Watch::start(start, false);
        watch.step(start, 3600 * SECOND);
        assert_eq!(watch.expired(start + 3600 * SECOND), None);
    }

    #[test]
    fn a_host_that_ends_early_is_remembered_by_its_last_words() {
        let now = Instant::now();
        let mut watch = Watch::start(now, true);
        watch.console(now, "[    7.0] double fault");
        watch.console(now, "");
        watch.console(now, BEAT);
        assert_eq!(watch.ended().to_string(), "it ended early; the last that it said was \"double fault\"");
    }
}
