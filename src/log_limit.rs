//! A limit on log lines: a guest can cause as many as it likes, at any level, and whoever reads them must not drown.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, Log, Metadata, Record};

/// So many lines are printed in a second, those that tell of others included.
const LINES: usize = 100;
const SECOND: Duration = Duration::from_secs(1);

/// A logger that prints what `inner` prints, up to the limit. What is left out is counted, and the number told with the next line
/// that is printed, or when the logger is flushed.
pub struct Limited<L> {
    inner: L,
    limit: Mutex<Limit>,
}

impl<L: Log> Limited<L> {
    /// A limit on this logger.
    pub fn new(inner: L) -> Self {
        Self { inner, limit: Mutex::default() }
    }

    fn limit(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what was left out as one of its lines would have been told, so that the same filter lets it pass.
    fn tell(&self, LeftOut { lines, level, target }: &LeftOut) {
        let text = format_args!("Log lines left out here: {lines} (no more than {LINES} a second are printed)");
        self.inner.log(&Record::builder().level(*level).target(target).args(text).build());
    }
}

impl<L: Log> Log for Limited<L> {
    fn enabled(&self, metadata: &Metadata) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Not while it is locked: printing may wait for a reader.
        let verdict = self.limit().judge(Instant::now(), record.metadata());
        if let Verdict::Print { before } = verdict {
            if let Some(left_out) = &before {
                self.tell(left_out);
            }
            self.inner.log(record);
        }
    }

    fn flush(&self) {
        let left_out = self.limit().left_out.take();
        if let Some(left_out) = &left_out {
            self.tell(left_out);
        }
        self.inner.flush();
    }
}

#[derive(Debug, Default)]
struct Limit {
    /// When the last lines were printed: at most [`LINES`] of them.
    printed: VecDeque<Instant>,
    /// Nothing is printed before, once there were too many: else each line that may be printed would tell of others.
    silent_until: Option<Instant>,
    left_out: Option<LeftOut>,
}

/// Lines that were not printed.
#[derive(Debug, PartialEq, Eq)]
struct LeftOut {
    lines: u64,
    /// Those of the first one.
    level: Level,
    target: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is printed, behind a line about others if there are any.
    Print {
        before: Option<LeftOut>,
    },
    LeaveOut,
}

impl Limit {
    fn judge(&mut self, now: Instant, metadata: &Metadata) -> Verdict {
        let is_silent = self.silent_until.is_some_and(|end| now < end);
        if !is_silent && self.admit(now) {
            self.silent_until = None;
            let before = self.left_out.take();
            if before.is_some() {
                // There is room: nothing was printed for a second.
                self.admit(now);
            }
            return Verdict::Print { before };
        }
        if !is_silent {
            self.silent_until = Some(now + SECOND);
        }
        let first = || LeftOut { lines: 0, level: metadata.level(), target: metadata.target().to_owned() };
        self.left_out.get_or_insert_with(first).lines += 1;
        Verdict::LeaveOut
    }

    /// Counts a line if it may be printed.
    fn admit(&mut self, now: Instant) -> bool {
        if self.printed.len() == LINES {
            if self.printed.front().is_some_and(|&oldest| now.saturating_duration_since(oldest) < SECOND) {
                return false;
            }
            self.printed.pop_front();
        }
        self.printed.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Prints to memory what is no trace.
    #[derive(Clone, Default)]
    struct Printer(Arc<Mutex<Vec<String>>>);

    impl Log for Printer {
        fn enabled(&self, metadata: &Metadata) -> bool {
            metadata.level() < Level::Trace
        }

        fn log(&self, record: &Record) {
            self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
        }

        fn flush(&self) {}
    }

    fn metadata(level: Level) -> Metadata<'static> {
        Metadata::builder().level(level).target("guest").build()
    }

    #[test]
    fn no_second_has_more_lines_than_the_limit_whatever_comes() {
        let start = Instant::now();
        // Steadily, in bursts, and at a rate just above the limit.
        for gap in [1, 7, 300, 9_900, 10_100].map(Duration::from_micros) {
            let (mut limit, mut now, mut printed, mut told) = (Limit::default(), start, Vec::new(), 0);
            let mut sent = 0;
            while now < start + 5 * SECOND {
                sent += 1;
                if let Verdict::Print { before } = limit.judge(now, &metadata(Level::Debug)) {
                    told += before.as_ref().map_or(0, |left_out| left_out.lines);
                    printed.extend(before.map(|_| now));
                    printed.push(now);
                    told += 1;
                }
                now += if sent % 500 == 0 { Duration::from_millis(130) } else { gap };
            }
            for (index, &first) in printed.iter().enumerate() {
                let within = printed[index..].iter().take_while(|&&line| line < first + SECOND).count();
                assert!(within <= LINES, "{within} lines in a second, one each {gap:?}");
            }
            let left = limit.left_out.as_ref().map_or(0, |left_out| left_out.lines);
            assert_eq!(told + left, sent, "every line is printed or counted");
        }
    }

    #[test]
    fn few_lines_are_all_printed() {
        let (start, mut limit) = (Instant::now(), Limit::default());
        for line in 0..500 {
            let verdict = limit.judge(start + line * Duration::from_millis(11), &metadata(Level::Debug));
            assert_eq!(verdict, Verdict::Print { before: None });
        }
    }

    #[test]
    fn what_is_left_out_is_told_as_it_would_have_been_and_what_is_not_wanted_does_not_count() {
        let printer = Printer::default();
        let logger = Limited::new(printer.clone());
        let log = |level, text: &str| logger.log(&Record::builder().level(level).args(format_args!("{text}")).build());
        for _ in 0..1000 {
            log(Level::Trace, "not wanted");
        }
        for _ in 0..250 {
            log(Level::Debug, "line");
        }
        assert_eq!(printer.0.lock().unwrap().len(), LINES);
        logger.flush();
        logger.flush();
        let lines = printer.0.lock().unwrap();
        let told = "DEBUG Log lines left out here: 150 (no more than 100 a second are printed)";
        assert_eq!(lines[LINES..], [told]);
    }
}
