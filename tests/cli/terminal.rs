//! `carpel run` as a job of a shell: what it does with the shell's terminal, in its foreground and off it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use carpel_testbed::payload;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::carpel::{carpel, under};
use crate::guest::wait;

/// What any step of these tests may take.
const LIMIT: Duration = Duration::from_secs(20);
/// What a terminal does for shells, and raw mode does not.
const COOKED: LocalFlags = LocalFlags::ICANON.union(LocalFlags::ECHO).union(LocalFlags::ISIG);
const HINT: &str = "carpel: Ctrl-A x ends the guest, Ctrl-A h helps\r\n";

/// A script that leads a session with a terminal of its own. In the script, `$run` starts a guest that echoes what it
/// reads up to a `q`.
struct Session {
    leader: Child,
    terminal: File,
    output: Arc<Mutex<Vec<u8>>>,
    /// Keeps the terminal as it is when nobody else has it open.
    _line: File,
}

/// Both ends of a new terminal. Other tests' children get neither of them, as they would from openpty(3).
fn open_terminal() -> (File, File) {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("There are terminals");
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname_r(&master).unwrap();
    let line = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name).unwrap();
    (OwnedFd::from(master).into(), line)
}

impl Session {
    fn start(script: &str) -> Self {
        let (terminal, line) = open_terminal();
        let clone = || line.try_clone().unwrap();
        let run = format!("{} run -k {}", env!("CARGO_BIN_EXE_carpel"), payload::path("echo").display());
        let mut command = Command::new("setsid");
        command.args(["-c", "bash", "--norc", "-c", script]).env("run", run).env_remove("RUST_LOG");
        let leader = command.stdin(clone()).stdout(clone()).stderr(clone()).spawn().expect("setsid starts");
        let output = Arc::<Mutex<Vec<u8>>>::default();
        let (mut reader, shared) = (terminal.try_clone().unwrap(), Arc::clone(&output));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                shared.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self { leader, terminal, output, _line: line }
    }

    /// All that was printed so far.
    fn output(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        self.wait_until(text, || self.output().contains(text));
    }

    #[track_caller]
    fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < LIMIT, "{what:?} did not come, but {:?}", self.output());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn keys(&self, bytes: &[u8]) {
        (&self.terminal).write_all(bytes).unwrap();
    }

    fn is_cooked(&self) -> bool {
        tcgetattr(&self.terminal).unwrap().local_flags.contains(COOKED)
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.terminal).unwrap().local_flags.intersects(COOKED)
    }

    #[track_caller]
    fn wait_until_raw(&self) {
        self.wait_until("raw mode", || self.is_raw());
    }

    /// The processes of the session, with their names.
    fn processes(&self) -> Vec<(Pid, String)> {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = stat(pid)?;
            (stat.session == self.leader.id()).then_some((Pid::from_raw(pid), stat.name))
        });
        processes.collect()
    }

    /// The one carpel in the session.
    #[track_caller]
    fn carpel(&self) -> Pid {
        let processes = self.processes();
        let found = processes.iter().find(|(_, name)| name == "carpel");
        found.unwrap_or_else(|| panic!("There is no carpel in {processes:?}: {:?}", self.output())).0
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        kill(self.carpel(), signal).expect("carpel runs");
    }

    #[track_caller]
    fn wait_until_stopped(&self) {
        let carpel = self.carpel().as_raw();
        self.wait_until("the stop", || stat(carpel).is_some_and(|stat| stat.state == 'T'));
    }

    /// Waits for the script's end; returns its status, and all that was printed.
    #[track_caller]
    fn finish(mut self) -> (i32, String) {
        self.wait_until("the end", || stat(self.leader.id().cast_signed()).is_none_or(|stat| stat.state == 'Z'));
        let status = wait(&mut self.leader, Instant::now());
        // What it printed last is on its way through the terminal.
        thread::sleep(Duration::from_millis(100));
        (status, self.output())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.leader.wait();
    }
}

/// What /proc tells of a process (proc(5)).
struct Stat {
    name: String,
    state: char,
    session: u32,
    /// Processor time of its main thread, in ticks of 10 ms.
    ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat")).ok()?;
    let (start, rest) = text.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let number = |index: usize| fields[index].parse::<u64>().ok();
    Some(Stat {
        name: start.split_once('(')?.1.to_owned(),
        state: fields[0].chars().next()?,
        session: fields[3].parse().ok()?,
        ticks: number(11)? + number(12)?,
    })
}

#[test]
fn in_the_foreground_the_escape_key_is_told_once_helps_and_ends() {
    let session = Session::start("set -m; $run; echo status $?");
    session.wait_for("ready");
    session.wait_until_raw();
    session.keys(b"<\x01\x01\x03>");
    session.wait_for("<\x01\x03>");
    session.keys(b"\x01h");
    session.wait_for("carpel: Ctrl-A x ends the guest, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows this\r\n");
    // Amid a line of the guest's, and again after that of carpel's.
    session.keys(b"prompt");
    session.wait_for("prompt");
    session.keys(b"\x01h");
    session.wait_for("prompt\r\ncarpel: Ctrl-A x ends");
    session.keys(b">");
    session.wait_for("shows this\r\n>");
    session.keys(b"\x01x");
    session.wait_for("status 130");
    assert!(session.is_cooked());
    let (status, output) = session.finish();
    assert_eq!((status, output.matches(HINT).count()), (0, 1), "{output}");
    assert!(output.starts_with(HINT), "{output:?}");
    assert!(output.contains(">\r\ncarpel: Ended by Ctrl-A x\r\nstatus 130"), "{output:?}");
}

#[test]
fn in_the_background_the_terminal_is_left_alone() {
    for preparation in ["", "stty tostop; "] {
        let session =
            Session::start(&(preparation.to_owned() + "set -m; $run & read line; echo got $line; wait %1; echo $?"));
        session.wait_for("ready");
        session.keys(b"typed for the shell\n");
        session.wait_for("got typed for the shell");
        thread::sleep(Duration::from_millis(600));
        assert!(session.is_cooked());
        session.signal(Signal::SIGTERM);
        let (_, output) = session.finish();
        let end = "carpel: Ended by signal 15\r\n";
        assert!(output.contains(end) && output.trim_end().ends_with("143"), "{output:?}");
        assert!(!output.contains("Ctrl-A"), "{output:?}");
    }
}

#[test]
fn under_timeout_a_guest_runs_and_ends() {
    // From a script it is in a process group of its own: in the background.
    let session = Session::start("timeout 3 $run; echo status $?");
    session.wait_for("ready");
    assert!(session.is_cooked());
    let (_, output) = session.finish();
    assert!(output.contains("carpel: Ended by signal 15\r\n") && output.contains("status 124\r\n"), "{output:?}");
    // From a prompt its process group is the job's, and here it is the shell's.
    for script in ["set -m; timeout 60 $run; echo status $?", "timeout --foreground 60 $run; echo status $?"] {
        let session = Session::start(script);
        session.wait_for("ready");
        session.wait_until_raw();
        session.keys(b"q");
        session.wait_for("status 0");
        assert!(session.is_cooked());
    }
}

#[test]
fn a_job_that_comes_to_the_foreground_takes_the_terminal() {
    // A shell sends no signal to a job that runs already.
    let session = Session::start("set -m; $run & read line; fg; echo status $?");
    session.wait_for("ready");
    assert!(session.is_cooked());
    session.keys(b"\n");
    session.wait_until_raw();
    session.wait_for("helps\r\n");
    session.keys(b"for the guest");
    session.wait_for("for the guest");
    session.keys(b"q");
    session.wait_for("status 0");
    assert!(session.is_cooked());
}

#[test]
fn a_stopped_job_gives_the_terminal_back_and_takes_it_again() {
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        // The shell would put its terminal in order itself: what it finds is asked first.
        let session = Session::start("set -m; $run; stty -a; read line; fg; echo status $?");
        session.wait_for("ready");
        session.wait_until_raw();
        session.signal(signal);
        session.wait_until_stopped();
        session.wait_for("echoke");
        let found = session.output();
        assert!(found.contains("isig icanon iexten echo "), "{signal}: {found}");
        session.keys(b"\n");
        session.wait_until_raw();
        session.keys(b"on it goes");
        session.wait_for("on it goes");
        session.keys(b"q");
        session.wait_for("status 0");
        assert!(session.is_cooked(), "{signal}");
        assert_eq!(session.output().matches("carpel: ").count(), 1, "{:?}", session.output());
    }
}

#[test]
fn a_stopped_job_goes_on_in_the_background_and_ends_there() {
    let session = Session::start("set -m; $run; read line; bg; read line; echo got $line; wait %1; echo status $?");
    session.wait_for("ready");
    session.wait_until_raw();
    session.signal(Signal::SIGTSTP);
    session.wait_until_stopped();
    session.wait_until("the shell's mode", || session.is_cooked());
    session.keys(b"\nfor the shell\n");
    session.wait_for("got for the shell");
    thread::sleep(Duration::from_millis(600));
    assert!(session.is_cooked());
    session.signal(Signal::SIGTERM);
    session.wait_for("status 143");
    assert!(session.is_cooked());
}

#[test]
fn sigterm_ends_a_stopped_job_once_it_goes_on() {
    let session = Session::start("set -m; $run; read line; kill %1; kill -CONT %1; wait %1; echo status $?");
    session.wait_for("ready");
    session.wait_until_raw();
    session.signal(Signal::SIGTSTP);
    session.wait_until_stopped();
    session.wait_until("the shell's mode", || session.is_cooked());
    session.keys(b"\n");
    session.wait_for("status 143");
    assert!(session.is_cooked());
}

#[test]
fn a_stop_that_cannot_be_noticed_does_not_make_raw_mode_the_users() {
    // No job control: nobody but carpel touches the terminal.
    let session = Session::start("$run; echo status $?");
    session.wait_for("ready");
    session.wait_until_raw();
    session.signal(Signal::SIGSTOP);
    session.wait_until_stopped();
    session.signal(Signal::SIGCONT);
    thread::sleep(Duration::from_millis(400));
    session.keys(b"q");
    session.wait_for("status 0");
    assert!(session.is_cooked());
}

#[test]
fn a_job_without_a_shell_neither_reads_nor_spins() {
    // Its process group is orphaned: reads from the terminal fail at once, and nothing stops it.
    let session = Session::start("(set -m; $run -a by=interrupt &); read line; echo got $line; read line");
    session.wait_for("ready");
    let carpel = session.carpel().as_raw();
    let before = stat(carpel).unwrap().ticks;
    session.keys(b"for the shell\nunread");
    session.wait_for("got for the shell");
    thread::sleep(Duration::from_secs(1));
    let ticks = stat(carpel).unwrap().ticks - before;
    assert!(ticks < 20, "{ticks} ticks of the main thread in a second");
    session.signal(Signal::SIGTSTP);
    thread::sleep(Duration::from_millis(100));
    assert!(stat(carpel).is_some_and(|stat| stat.state != 'T'));
    session.signal(Signal::SIGTERM);
    session.wait_for("carpel: Ended by signal 15");
    assert!(session.is_cooked());
}

#[test]
fn every_deadly_signal_restores_the_terminal() {
    // All whose default is to end a process, but for those that carpel or its runtime ignores (PIPE), uses (USR1, the
    // first real-time signal, XFSZ) or cannot catch.
    let names =
        "HUP INT QUIT ILL TRAP ABRT BUS FPE SEGV USR2 ALRM TERM STKFLT XCPU VTALRM PROF IO PWR SYS RTMIN+1 RTMAX";
    for name in names.split(' ') {
        let session = Session::start("exec $run");
        session.wait_for("ready");
        session.wait_until_raw();
        let carpel = session.carpel().to_string();
        assert!(Command::new("bash").args(["-c", "kill -$0 $1", name, &carpel]).status().unwrap().success());
        let number = Command::new("bash").args(["-c", "kill -l $0", name]).stdout(Stdio::piped()).output().unwrap();
        let number: i32 = String::from_utf8(number.stdout).unwrap().trim().parse().unwrap();
        session.wait_until(name, || session.is_cooked());
        let (status, output) = session.finish();
        // Ended by the signal, or in order with the status of that.
        assert!(status == 128 + number || status == -number, "{name}: {status}, {output:?}");
    }
}

#[test]
fn a_terminal_on_standard_input_is_not_touched_for_a_console_elsewhere() {
    let session =
        Session::start("$run --console null --timeout 2s & sleep 1; read line; echo got $line; wait %1; echo $?");
    session.keys(b"for the shell\n");
    session.wait_for("got for the shell");
    assert!(session.is_cooked());
    let (_, output) = session.finish();
    assert!(output.trim_end().ends_with("124") && !output.contains("Ctrl-A"), "{output:?}");
}

#[test]
fn a_terminal_that_goes_away_ends_the_run_unless_hangups_are_ignored() {
    for ignored in [false, true] {
        let (mut terminal, line) = open_terminal();
        let clone = || line.try_clone().unwrap();
        let run = carpel(&["run", "-a", "by=interrupt", "-k"]);
        let wrapper: &[&str] =
            if ignored { &["env", "--ignore-signal=HUP", "setsid", "-c"] } else { &["setsid", "-c"] };
        let mut command = under(wrapper, &run);
        command.arg(payload::path("echo")).stdin(clone()).stdout(clone()).stderr(clone());
        let mut leader = command.spawn().unwrap();
        // Nobody else keeps the terminal.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        drop(line);
        let mut printed = Vec::new();
        while !printed.ends_with(b"ready\r\n") {
            let mut byte = [0];
            terminal.read_exact(&mut byte).unwrap();
            printed.extend(byte);
        }
        drop(terminal);
        if ignored {
            thread::sleep(Duration::from_millis(500));
            let carpel = leader.id().cast_signed();
            let before = stat(carpel).expect("carpel runs").ticks;
            thread::sleep(Duration::from_secs(1));
            let ticks = stat(carpel).expect("carpel runs").ticks - before;
            assert!(ticks < 20, "{ticks} ticks of the main thread in a second");
            kill(Pid::from_raw(carpel), Signal::SIGTERM).unwrap();
        }
        assert_eq!(wait(&mut leader, Instant::now()), if ignored { 143 } else { 129 });
    }
}
