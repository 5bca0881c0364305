//! Runs `carpel` as a user does, and never waits for it without end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use carpel_testbed::payload;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longer than any of these guests takes on a busy machine whose KVM emulates instructions.
const LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(2);

/// Both layouts with both interrupt controllers.
pub const MACHINES: [[&str; 4]; 4] = [
    ["--layout", "krun", "--device", "irqchip,mode=split"],
    ["--layout", "krun", "--device", "irqchip,mode=full"],
    ["--layout", "crosvm", "--device", "irqchip,mode=split"],
    ["--layout", "crosvm", "--device", "irqchip,mode=full"],
];
pub const LAYOUTS: [&str; 2] = ["krun", "crosvm"];

/// What a finished `carpel` left.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status; a signal's number negated if one killed it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

impl Outcome {
    /// Fails the test with all that is known if the status is another.
    #[track_caller]
    pub fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }

    /// The values behind a name on the guest's lines, such as `e820 0x0 0x9fc00 1`.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
        self.stdout.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter_map(move |words| {
            let (first, values) = words.split_first()?;
            (*first == name).then(|| values.to_vec())
        })
    }
}

/// A `carpel run` that goes on, at most as long as this is kept.
pub struct Running {
    child: Owned,
    input: Option<Box<dyn Write + Send>>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: [JoinHandle<String>; 2],
    started: Instant,
}

/// A process that ends with its owner, so that a test that fails leaves no guest behind.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // Fails only where it has ended, and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `carpel run` with a payload as the kernel, as a command to add to.
pub fn command(name: &str, args: &[&str]) -> Command {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        panic!("This test needs /dev/kvm, which cannot be opened: {error}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_carpel"));
    command.arg("run").arg("-k").arg(payload::path(name)).args(args);
    command
}

/// Runs a payload to its end, with nothing on standard input.
pub fn run(name: &str, args: &[&str]) -> Outcome {
    finish(command(name, args).stdin(Stdio::null()))
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Outcome {
    Running::start(command).finish()
}

impl Running {
    /// Starts a command whose output is collected.
    pub fn start(command: &mut Command) -> Self {
        let started = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("carpel starts");
        let input = child.stdin.take().map(|pipe| Box::new(pipe) as Box<dyn Write + Send>);
        let output = child.stdout.take().expect("The output is a pipe");
        Self::new(child, input, output, started)
    }

    /// Starts a command on a terminal of this size, of which this returns the other end too.
    pub fn start_on_terminal(command: &mut Command, size: Winsize) -> (Self, File) {
        let pty = openpty(&size, None).expect("There are terminals");
        let clone = || pty.slave.as_fd().try_clone_to_owned().unwrap();
        let started = Instant::now();
        let child = command.stdin(clone()).stdout(clone()).stderr(Stdio::piped()).spawn().expect("carpel starts");
        // The command holds on to its ends of the terminal: output from it would otherwise never end.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let terminal = File::from(pty.master);
        let (input, output) = (terminal.try_clone().unwrap(), terminal.try_clone().unwrap());
        (Self::new(child, Some(Box::new(input)), output, started), terminal)
    }

    fn new(
        mut child: Child,
        input: Option<Box<dyn Write + Send>>,
        output: impl Read + Send + 'static,
        started: Instant,
    ) -> Self {
        let (stdout, stderr) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let errors = child.stderr.take().expect("The errors are a pipe");
        let shared = (Arc::clone(&stdout), Arc::clone(&stderr));
        let readers =
            [thread::spawn(move || collect(output, &shared.0)), thread::spawn(move || collect(errors, &shared.1))];
        Self { child: Owned(child), input, stdout, stderr, readers, started }
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Waits until the guest's output contains a text.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |guest| &guest.stdout);
    }

    /// Waits until carpel has said something that contains a text, and returns all that it said.
    #[track_caller]
    pub fn wait_for_error(&mut self, text: &str) -> String {
        self.wait_until(text, |guest| &guest.stderr)
    }

    #[track_caller]
    fn wait_until(&mut self, text: &str, stream: fn(&Self) -> &Mutex<Vec<u8>>) -> String {
        loop {
            let output = String::from_utf8_lossy(&stream(self).lock().unwrap()).into_owned();
            if output.contains(text) {
                return output;
            }
            let ended = self.child.0.try_wait().unwrap().is_some();
            assert!(!ended && self.started.elapsed() < LIMIT, "{text:?} did not come, but {output:?}");
            thread::sleep(POLL);
        }
    }

    /// Types to the guest.
    pub fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("The input can be written to");
        input.write_all(bytes).expect("carpel reads its input");
    }

    /// The way to standard input, for another thread.
    pub fn take_input(&mut self) -> Box<dyn Write + Send> {
        self.input.take().expect("The input can be written to")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed());
        kill(pid, signal).expect("carpel runs");
    }

    /// Waits for the end, and fails the test if it does not come.
    pub fn finish(mut self) -> Outcome {
        let status = wait(&mut self.child.0, self.started);
        let elapsed = self.started.elapsed();
        let [stdout, stderr] = self.readers.map(|reader| reader.join().unwrap());
        Outcome { status, stdout, stderr, elapsed }
    }
}

/// The exit status of a child that must end inside the limit.
pub fn wait(child: &mut Child, started: Instant) -> i32 {
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            use std::os::unix::process::ExitStatusExt as _;
            return status.code().unwrap_or_else(|| -status.signal().unwrap());
        }
        if started.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("carpel did not end in {LIMIT:?}");
        }
        thread::sleep(POLL);
    }
}

/// Reads to the end, so that the writer is never held up, and shows others what has come so far.
fn collect(mut from: impl Read, into: &Mutex<Vec<u8>>) -> String {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        into.lock().unwrap().extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&into.lock().unwrap()).into_owned()
}

#[test]
fn a_guest_ends_with_the_test_that_started_it() {
    let mut guest = Running::start(command("end", &["-a", "how=idle"]).stdin(Stdio::null()));
    guest.wait_for("ending\n");
    let pid = Pid::from_raw(guest.pid().cast_signed());
    kill(pid, None).expect("carpel runs");
    drop(guest);
    assert!(kill(pid, None).is_err());
}
