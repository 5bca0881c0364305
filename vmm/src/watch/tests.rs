use std::thread;

use super::port::{PANIC, PIECE};
use super::*;
use crate::outcome::Shown;

/// A console with one port, `ttyS0`, and one more, `hvc0`.
struct Console {
    shutdown: Arc<Shutdown>,
    judge: Judge,
}

impl Console {
    fn new(until: &str, fail_on: &[&str]) -> Self {
        let limits = Limits {
            until: (!until.is_empty()).then(|| until.to_owned()),
            fail_on: fail_on.iter().map(|&pattern| pattern.to_owned()).collect(),
            ..Limits::default()
        };
        let shutdown = Arc::new(Shutdown::new().unwrap());
        let judge = Judge::new(&limits, Arc::clone(&shutdown)).unwrap();
        assert_eq!([judge.add("ttyS0"), judge.add("hvc0")], [0, 1]);
        Self { shutdown, judge }
    }

    /// Prints byte by byte, as a serial port does.
    fn print(&self, bytes: &[u8]) -> &Self {
        bytes.chunks(1).for_each(|byte| self.judge.feed(0, byte));
        self
    }

    fn print_on(&self, port: usize, bytes: &[u8]) -> &Self {
        self.judge.feed(port, bytes);
        self
    }

    /// Lets unfinished lines wait as long as it takes, and no longer.
    fn wait(&self) -> &Self {
        let due = ago(SILENCE);
        for port in &mut self.judge.state().ports {
            port.waiting_since = port.waiting_since.map(|_| due);
        }
        self.judge.state().alarm = None;
        self.judge.tick();
        self
    }

    fn found(&self) -> Option<(MatchOption, String, String, String)> {
        self.shutdown.matched().map(|found| (found.option, found.pattern, found.port, found.line))
    }

    fn line(&self) -> Option<String> {
        self.found().map(|(_, _, _, line)| line)
    }
}

/// The line on which this is found at last, printed in one piece and in bytes; `None` if nothing is.
#[track_caller]
fn matched(pattern: &str, output: &[u8]) -> Option<String> {
    let (bytes, whole) = (Console::new(pattern, &[]), Console::new("", &[pattern]));
    bytes.print(output).judge.finish();
    whole.print_on(1, output).judge.finish();
    assert_eq!(bytes.line(), whole.line(), "{pattern}");
    bytes.line()
}

fn ago(time: Duration) -> Instant {
    Instant::now().checked_sub(time).expect("The machine runs for longer")
}

#[test]
fn a_complete_line_is_judged_as_a_whole() {
    let console = Console::new("", &["STATUS=[0-9]+"]);
    console.print(b"STATUS=127");
    assert_eq!(console.found(), None);
    console.print(b" in 3 s\n");
    let (option, pattern, port, line) = console.found().unwrap();
    assert_eq!((option, pattern.as_str(), port.as_str()), (MatchOption::FailOn, "STATUS=[0-9]+", "ttyS0"));
    assert_eq!(line, "STATUS=127 in 3 s");
}

#[test]
fn a_prompt_that_waits_matches_with_its_end() {
    for prompt in [&b"/ # "[..], b"Debian\r\n/ # ", b"a\rb\n\x1b[01;32m/ \x1b[00m# \x1b[6n"] {
        let console = Console::new("# $", &[]);
        console.print(prompt);
        assert_eq!(console.found(), None);
        console.wait();
        assert_eq!(console.line(), Some("/ # ".into()), "{prompt:?}");
        assert!(console.shutdown.ended());
    }
    // Who goes on printing does not wait.
    let console = Console::new("ok$", &[]);
    console.print(b"ok").judge.tick();
    console.print(b"ay").wait().print(b"\nok\n");
    assert_eq!(console.line(), Some("ok".into()));
}

#[test]
fn a_line_that_was_judged_as_unfinished_is_judged_again_when_it_is_complete() {
    let console = Console::new("^Starting.* ok$", &["failed$"]);
    console.print(b"Starting a service ...").wait().print(b" o").wait().print(b"k").wait();
    assert_eq!(console.line(), Some("Starting a service ... ok".into()));
}

#[test]
fn anchors_hold_at_the_ends_of_lines_only() {
    assert_eq!(matched("^ok$", b"no ok\nok no\nok\r\n"), Some("ok".into()));
    assert_eq!(matched("^ok$", b"10 %\r20 %\rok\rdone"), Some("ok".into()));
    assert_eq!(matched("ok$", b"okay\n"), None);
    assert_eq!(matched(r"ok\b", b"okay ok"), Some("okay ok".into()));
    assert_eq!(matched("^$", b"a\r\nb\r\n"), None);
    assert_eq!(matched("^$", b"a\r\n\r\n"), Some(String::new()));
    assert_eq!(matched("^$", b"a\r"), None);
    assert_eq!(matched("login:", b"log\nin:"), None);
    assert_eq!(matched("(?m)^b$", b"a\rb\rc"), Some("b".into()));
}

#[test]
fn a_carriage_return_and_a_line_feed_are_one_end_however_they_come() {
    for parts in [["ok\r", "\n"], ["ok", "\r\n"], ["ok\r\n", ""]] {
        let console = Console::new("", &["^$"]);
        console.print_on(0, parts[0].as_bytes()).wait().print_on(0, parts[1].as_bytes()).wait();
        console.judge.finish();
        assert_eq!(console.found(), None, "{parts:?}");
    }
    // The whole of a line's end is printed before the run ends.
    let console = Console::new("ok", &[]);
    console.print(b"ok\r");
    assert!(!console.shutdown.ended());
    console.print(b"\n");
    assert!(console.shutdown.ended());
    let console = Console::new("ok", &[]);
    console.print(b"ok\r").wait();
    assert!(console.shutdown.ended());
}

#[test]
fn neither_anchor_holds_where_a_long_line_is_cut() {
    for around in [PIECE - 7, PIECE - 4, PIECE - 3, PIECE - 1, PIECE, PIECE + 60, 2 * PIECE] {
        let mut line = vec![b'x'; around];
        line.extend(b"BUG:");
        assert_eq!(matched("^BUG:", &line), None, "{around}");
        assert!(matched("xBUG:$", &line).unwrap().ends_with("xBUG:"), "{around}");
        line.extend(vec![b'y'; PIECE]);
        assert_eq!(matched("BUG:$", &line), None, "{around}");
        assert_eq!(matched("x$", &line), None, "{around}");
        assert!(matched("xBUG:y", &line).unwrap().contains("xxBUG:yy"), "{around}");
        assert_eq!(matched(r"x\bBUG", &line), None, "{around}");
        assert!(matched(r"BUG:\by", &line).is_some(), "{around}");
    }
    // It counts when the piece is full, for the line may never end.
    let console = Console::new("x", &[]);
    console.print_on(0, &vec![b'x'; PIECE - 1]);
    assert_eq!(console.found(), None);
    console.print_on(0, b"x");
    assert!(console.shutdown.ended());
}

#[test]
fn colours_hide_nothing_and_can_be_matched() {
    let line = b"\x1b[31mBUG\x1b[0m: a\x1b]0;title\x07b\n";
    assert_eq!(matched("^BUG: ab$", line), Some("BUG: ab".into()));
    assert_eq!(matched("\\[31mBUG\x1b", line), Some("BUG: ab".into()));
    assert_eq!(matched("title", line), Some("BUG: ab".into()));
    assert_eq!(matched("^b$", b"\x1b]0;never closed\nb\n"), Some("b".into()));
}

#[test]
fn failure_wins_on_one_line_and_else_the_first_verdict_stands() {
    let console = Console::new("ready", &["never", "BUG:|WARNING:"]);
    console.print(b"ready, but WARNING: x\n");
    assert_eq!(console.found().unwrap().1, "BUG:|WARNING:");
    let console = Console::new("ready", &["BUG:"]);
    console.print(b"ready\nBUG: x\n");
    assert_eq!(console.found().unwrap().0, MatchOption::Until);
    // Lines that become due at the same time count as one.
    let console = Console::new("ready", &["BUG:"]);
    console.print_on(0, b"ready").print_on(1, b"BUG: x").judge.finish();
    assert_eq!(console.found().unwrap().0, MatchOption::FailOn);
}

#[test]
fn lines_are_those_of_one_port() {
    let console = Console::new("^login:$", &[]);
    console.print_on(0, b"log").print_on(1, b"login:").print_on(0, b"in:\n").print_on(1, b"\n");
    assert_eq!(console.found().unwrap().2, "ttyS0");
    let console = Console::new("^login:$", &[]);
    console.print_on(0, b"log").print_on(1, b"login:\n").print_on(0, b"in:\n");
    assert_eq!(console.found().unwrap().2, "hvc0");
}

#[test]
fn a_wrong_pattern_is_told_in_one_line() {
    let limits = Limits { fail_on: vec!["a".into(), "(".into()], ..Limits::default() };
    let error = Judge::new(&limits, Arc::new(Shutdown::new().unwrap())).err().unwrap();
    assert_eq!(error.to_string(), "`(` is not a regular expression: unclosed group");
}

#[test]
fn patterns_match_bytes() {
    assert_eq!(matched("grün.*x", "grün\u{e9}x".as_bytes()), Some("grün\u{e9}x".into()));
    assert_eq!(matched("(?i)READY.", b"ready\xFF"), Some("ready\u{FFFD}".into()));
    assert_eq!(matched(r"^\w+$", "é\n".as_bytes()), None);
}

#[test]
fn what_is_shown_of_a_long_line_is_around_the_match() {
    let line = [&[b'a'; 5000][..], b" BUG: here ", &[b'z'; 5000]].concat();
    let shown = matched("BUG:", &line).unwrap();
    assert!(shown.contains("a BUG: here z") && shown.len() <= 1024, "{shown}");
}

#[test]
fn after_a_failure_the_guest_prints_its_trace() {
    let lines = |count: usize| b"[    1.0]  trace\n".repeat(count);
    let console = Console::new("done", &["BUG:"]);
    console.print(b"BUG: x\n").print(&lines(20)).print(b"done\nBUG: y\n");
    assert!(!console.shutdown.ended());
    console.print(b"[    1.0] ---[ end trace 0123456789abcdef ]---\r");
    assert!(!console.shutdown.ended());
    console.print(b"\n");
    assert!(console.shutdown.ended());
    assert_eq!(console.line(), Some("BUG: x".into()));

    let console = Console::new("", &["BUG:"]);
    console.print(b"BUG: x\n").print_on(1, &lines(TRACE_MAX / 17));
    assert!(!console.shutdown.ended());
    console.print_on(1, &lines(2));
    assert!(console.shutdown.ended());

    let console = Console::new("", &["end trace"]);
    assert!(console.print(b"---[ end trace 0 ]---\n").shutdown.ended());
}

#[test]
fn a_trace_ends_by_silence_or_after_a_while() {
    let ended = |begun: Duration, printed: Duration| {
        let console = Console::new("", &["BUG:"]);
        console.print(b"BUG: x\n");
        console.judge.state().trace = Some(Trace { begun: ago(begun), printed_at: ago(printed), bytes: 0 });
        console.judge.tick();
        console.shutdown.ended()
    };
    assert!(!ended(Duration::from_millis(4500), Duration::from_millis(500)));
    assert!(ended(Duration::from_millis(4500), TRACE_SILENCE));
    assert!(ended(TRACE_TIME, Duration::ZERO));
}

#[test]
fn a_panic_is_noted_and_its_end_ends_the_run() {
    let console = Console::new("", &[]);
    console.print(b"[ 1.0] Kernel panic - not syncing: VFS\n");
    assert!(console.shutdown.dying() && !console.shutdown.ended());
    console.print(b"[ 1.1] ---[ end Kernel panic - not syncing: VFS ]---");
    assert!(!console.shutdown.ended());
    console.print(b"\r\n");
    assert_eq!(console.shutdown.outcome(Shown::default()), Some(Outcome::Panicked));
}

#[test]
fn an_endless_line_is_bounded_and_a_panic_in_it_is_noted() {
    for before in [3 * PIECE, PIECE - 3, PIECE - PANIC.len()] {
        let console = Console::new("", &[]);
        console.print_on(1, &vec![b'x'; before]).print_on(1, PANIC);
        assert!(console.shutdown.dying(), "{before}");
    }
}

#[test]
fn the_last_line_of_all_ports_tells_of_a_restart() {
    let restarting = |parts: &[(usize, &str)]| {
        let console = Console::new("", &[]);
        for (port, text) in parts {
            console.print_on(*port, text.as_bytes());
        }
        console.judge.is_restarting()
    };
    assert!(restarting(&[(0, "[    1.0] reboot: Restarting system\r\n")]));
    assert!(restarting(&[(0, "a\n"), (1, "[    1.0] reboot: Restarting system\n\r\n \n")]));
    assert!(restarting(&[(0, "\x1b[1mreboot: Restarting system\x1b[0m")]));
    assert!(!restarting(&[(0, "reboot: Restarting system\nBUG: x\n")]));
    assert!(!restarting(&[(0, "reboot: Restarting system\nx")]));
    assert!(!restarting(&[(0, "reboot: Restarting system\n"), (1, "x\n")]));
    assert!(!restarting(&[]));
}

#[test]
fn the_tail_is_what_all_ports_printed_last() {
    let console = Console::new("", &[]);
    console.print_on(0, b"lost").print_on(1, &vec![b'a'; TAIL_MAX - 2]).print_on(0, b"\x00\xff");
    let tail = console.judge.take_tail();
    assert_eq!((tail.len(), &tail[TAIL_MAX - 3..]), (TAIL_MAX, &b"a\x00\xff"[..]));
    console.print_on(0, &[&[b'x'; 9][..], &vec![b'b'; TAIL_MAX]].concat());
    assert_eq!(console.judge.take_tail(), vec![b'b'; TAIL_MAX]);
}

#[test]
fn a_monitor_that_was_stopped_does_not_take_that_for_silence() {
    let console = Console::new("log", &[]);
    console.print(b"log");
    let then = ago(Duration::from_secs(10));
    console.judge.state().ports[0].waiting_since = Some(then);
    console.judge.state().alarm = Some(then + SILENCE);
    console.judge.tick();
    assert_eq!(console.found(), None);
    console.wait();
    assert_eq!(console.line(), Some("log".into()));
}

#[test]
fn the_timer_comes_when_a_line_has_waited() {
    let console = Console::new("# $", &[]);
    assert!(Console::new("", &[]).judge.timer().is_none());
    let started = Instant::now();
    console.print(b"# ");
    while console.found().is_none() && started.elapsed() < Duration::from_secs(20) {
        // Waits for the timer, as the event loop does.
        console.judge.tick();
        thread::yield_now();
    }
    assert!(console.found().is_some() && started.elapsed() >= SILENCE, "{:?}", started.elapsed());
}

/// Bytes of a line are looked at once, so that one ten times as long takes ten times as long: a hundred times is a square.
#[test]
fn the_cost_of_a_line_is_linear() {
    let time = |length: usize| {
        let console = Console::new("nowhere.*found$", &["BUG:|WARNING:|Oops", "[0-9]+ failed$"]);
        let line = b"a b c 1 2 3 ".repeat(length / 12);
        let before = cpu_time();
        line.chunks(64).for_each(|piece| console.judge.feed(1, piece));
        cpu_time().saturating_sub(before)
    };
    let best = |length| (0..5).map(|_| time(length)).min().unwrap();
    let (short, long) = (best(6 << 10), best(60 << 10));
    assert!(long < 30 * short, "{short:?} {long:?}");
}

/// How long this thread has run: others on the machine do not count. What /proc tells of that is as coarse as a timer tick.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`, to where there is one.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.cast_unsigned(), 0) + Duration::from_nanos(time.tv_nsec.cast_unsigned())
}
