//! What the testbed tells the person who waits: headings, and for each long task a line with its time.
//!
//! On a terminal a running task shows a spinner with its latest news; elsewhere it prints plain lines, with news twice a
//! minute, so that a log stays short and a watchdog of a CI system sees life.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a task without a terminal prints its news.
const NEWS_INTERVAL: Duration = Duration::from_secs(30);

/// The spinners of all tasks that run.
static SPINNERS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints a heading.
pub fn heading(text: impl Display) {
    SPINNERS.suspend(|| println!("\n== {text}"));
}

/// Seconds with one digit after the point, as every line here shows them.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A long task: started, sometimes with news, then finished (or dropped, when it failed).
pub struct Task {
    name: String,
    started: Instant,
    last_news: Instant,
    bar: ProgressBar,
}

impl Task {
    /// Says that the task `name` begins.
    pub fn start(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = SPINNERS.add(ProgressBar::new_spinner());
        if bar.is_hidden() {
            println!("   {name} ...");
        } else if let Ok(style) = ProgressStyle::with_template("   {spinner} {prefix} ({elapsed}) {wide_msg}") {
            bar.set_style(style);
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        let now = Instant::now();
        Self { name, started: now, last_news: now, bar }
    }

    /// Tells what the task is doing now.
    pub fn news(&mut self, text: &str) {
        if !self.bar.is_hidden() {
            self.bar.set_message(text.to_owned());
        } else if self.last_news.elapsed() >= NEWS_INTERVAL {
            self.last_news = Instant::now();
            println!("   {} ... {} ({text})", self.name, seconds(self.started.elapsed()));
        }
    }

    /// Prints a line beside the task without disturbing its spinner.
    pub fn line(&self, text: &str) {
        SPINNERS.suspend(|| println!("{text}"));
    }

    /// Says that the task is finished, and how long it took.
    pub fn done(self) {
        self.bar.finish_and_clear();
        SPINNERS.suspend(|| println!("   {}: {}", self.name, seconds(self.started.elapsed())));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
