//! Runs a command under ptrace, notes the system calls of its start, and has one of them fail.

use std::collections::HashMap;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Nothing of these runs takes so long, unless it hangs.
const LIMIT: Duration = Duration::from_secs(30);
/// `ioctl(2)` request that enters a guest (include/uapi/linux/kvm.h).
pub const KVM_RUN: u64 = 0xAE80;
/// How a stop at a system call, and that of a thread that started another, look (ptrace(2)).
const CALL_STOP: i32 = libc::SIGTRAP | 0x80;
const CLONE_STOP: i32 = libc::SIGTRAP | libc::PTRACE_EVENT_CLONE << 8;
/// The part of futex(2)'s second argument that says what it does.
const FUTEX_OPERATION: u64 = 0x7F;
/// What a system call that was replaced by none returns by itself.
const NONE: u64 = u64::MAX;

/// A system call among those of a start, which are the same in every run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// The thread: the main thread's is empty, and each thread started by one has its ordinal behind that one's.
    pub thread: Vec<usize>,
    /// The system call's number.
    pub number: i64,
    /// Of an ioctl, its request; of a fcntl, its command; of a futex, its operation.
    pub request: u64,
    /// How many of these the thread made before.
    pub index: usize,
}

/// What is to fail, and how.
#[derive(Clone, Debug)]
pub struct Fault {
    pub call: Call,
    /// The file that the call is about, as in the run without faults.
    pub file: String,
    pub errno: i32,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// The exit status; a signal's number negated if one killed it.
    pub status: i32,
    /// It did not end, and was killed.
    pub hung: bool,
    /// The calls from main's first to the guest's first exit, each with the file that it is about, if it is about one.
    pub calls: Vec<(Call, String)>,
    /// The fault was there.
    pub hit: bool,
}

/// A thread of the program.
struct Task {
    name: Vec<usize>,
    /// So many threads it started.
    started: usize,
    /// Inside a system call.
    inside: bool,
    /// How often it made each call.
    made: HashMap<(i64, u64), usize>,
    /// How the call fails when it returns.
    fails: Option<Failure>,
}

/// What makes a call fail when it returns.
enum Failure {
    /// It was replaced by none, and returns this error.
    Errno(i32),
    /// It is brk(2), which fails by returning what the break was. It was only asked for that, and its argument was this.
    Unmoved(u64),
}

impl Task {
    fn new(name: Vec<usize>) -> Self {
        Self { name, started: 0, inside: false, made: HashMap::new(), fails: None }
    }
}

/// What is known of the program.
struct Trace<'a> {
    fault: Option<&'a Fault>,
    tasks: HashMap<Pid, Task>,
    /// Threads that stopped before whoever started them told of it.
    early: Vec<Pid>,
    /// The standard library has set up the main thread, of which this is the last call.
    main_is_next: bool,
    in_main: bool,
    guest_ran: bool,
    run: Run,
}

/// Runs a command, whose children are only its own threads, to its end.
pub fn trace(command: &mut Command, fault: Option<&Fault>) -> Run {
    // SAFETY: between fork and exec, this makes one system call.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let mut child = command.stdin(Stdio::null()).spawn().expect("carpel starts");
    let pid = Pid::from_raw(child.id().cast_signed());
    let (done, ended) = channel::<()>();
    let watch = thread::spawn(move || {
        let hung = ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
        if hung {
            let _ = kill(pid, Signal::SIGKILL);
        }
        hung
    });
    // The first stop is that of exec.
    wait();
    ptrace::setoptions(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL)
        .expect("carpel can be traced");
    let mut trace = Trace {
        fault,
        tasks: HashMap::from([(pid, Task::new(Vec::new()))]),
        early: Vec::new(),
        main_is_next: false,
        in_main: false,
        guest_ran: false,
        run: Run::default(),
    };
    trace.go_on(pid, 0);
    while !trace.has_ended(pid) {}
    // It has been waited for.
    let _ = child.wait();
    drop(done);
    trace.run.hung = watch.join().unwrap();
    trace.run
}

/// Waits for any task that this thread traces: others run other programs. Not by nix, which knows no real-time signal.
fn wait() -> (Pid, i32) {
    let mut status = 0;
    // SAFETY: the call writes one integer, to where there is one.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    assert!(pid > 0, "carpel is there");
    (Pid::from_raw(pid), status)
}

impl Trace<'_> {
    /// Waits for the next stop and sees to it; returns whether the program has ended.
    fn has_ended(&mut self, main: Pid) -> bool {
        let (pid, status) = wait();
        if !libc::WIFSTOPPED(status) {
            let killed = libc::WIFSIGNALED(status);
            self.run.status = if killed { -libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
            return pid == main;
        }
        // The signal; above it, what PTRACE_O_TRACESYSGOOD and PTRACE_O_TRACECLONE add.
        match status >> 8 {
            CALL_STOP => {
                self.at_call(pid);
                self.go_on(pid, 0);
            }
            CLONE_STOP => {
                self.note_thread(pid);
                self.go_on(pid, 0);
            }
            libc::SIGSTOP if !self.tasks.contains_key(&pid) => self.early.push(pid),
            libc::SIGSTOP => self.go_on(pid, 0),
            signal => self.go_on(pid, signal),
        }
        false
    }

    fn go_on(&self, pid: Pid, signal: i32) {
        // Nothing is to be seen once the call has failed.
        let seen = self.run.hit || self.guest_ran;
        let request = if seen { libc::PTRACE_CONT } else { libc::PTRACE_SYSCALL };
        // Not nix's, which knows no real-time signal. SAFETY: these requests touch no memory. A thread may be gone.
        unsafe { libc::ptrace(request, pid.as_raw(), 0, signal) };
    }

    fn note_thread(&mut self, parent: Pid) {
        let Ok(child) = ptrace::getevent(parent) else { return };
        let child = Pid::from_raw(child as i32);
        let Some(task) = self.tasks.get_mut(&parent) else { return };
        let name = [&task.name[..], &[task.started]].concat();
        task.started += 1;
        self.tasks.insert(child, Task::new(name));
        if let Some(early) = self.early.iter().position(|&early| early == child) {
            self.early.swap_remove(early);
            self.go_on(child, 0);
        }
    }

    fn at_call(&mut self, pid: Pid) {
        let (Ok(mut registers), Some(task)) = (ptrace::getregs(pid), self.tasks.get_mut(&pid)) else { return };
        task.inside = !task.inside;
        if !task.inside {
            if let Some(failure) = task.fails.take() {
                match failure {
                    Failure::Errno(errno) => registers.rax = i64::from(-errno).cast_unsigned(),
                    Failure::Unmoved(argument) => registers.rdi = argument,
                }
                let _ = ptrace::setregs(pid, registers);
                self.run.hit = true;
            }
            if registers.orig_rax.cast_signed() == libc::SYS_ioctl && registers.rsi == KVM_RUN {
                self.guest_ran = true;
            }
            return;
        }
        let number = registers.orig_rax.cast_signed();
        // What the standard library and the C library do before main ends so: handlers for a stack that overflows.
        if self.main_is_next && number == libc::SYS_prlimit64 {
            self.in_main = true;
        }
        self.main_is_next |=
            number == libc::SYS_rt_sigaction && registers.rdi == libc::SIGBUS as u64 && registers.rsi != 0;
        if !self.in_main || self.guest_ran {
            return;
        }
        let request = match number {
            libc::SYS_ioctl | libc::SYS_fcntl => registers.rsi & 0xFFFF_FFFF,
            libc::SYS_futex => registers.rsi & FUTEX_OPERATION,
            _ => 0,
        };
        let made = task.made.entry((number, request)).or_default();
        let call = Call { thread: task.name.clone(), number, request, index: *made };
        *made += 1;
        if let Some(fault) = self.fault.filter(|fault| fault.call == call && !self.run.hit) {
            if number == libc::SYS_brk {
                task.fails = Some(Failure::Unmoved(std::mem::take(&mut registers.rdi)));
            } else {
                task.fails = Some(Failure::Errno(fault.errno));
                registers.orig_rax = NONE;
            }
            let _ = ptrace::setregs(pid, registers);
        }
        let file = if self.fault.is_none() { file(pid, number, &registers) } else { String::new() };
        self.run.calls.push((call, file));
    }
}

/// The name of the file that a call is about, as the program names it or as the kernel does.
fn file(pid: Pid, number: i64, registers: &libc::user_regs_struct) -> String {
    let (descriptor, name) = match number {
        libc::SYS_openat | libc::SYS_statx => (registers.rdi, Some(registers.rsi)),
        libc::SYS_mmap => (registers.r8, None),
        libc::SYS_epoll_ctl => (registers.rdx, None),
        _ => (registers.rdi, None),
    };
    let name = name.map(|name| text(pid, name)).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{}", descriptor as i32));
        link.map(|path| path.display().to_string()).unwrap_or_default()
    })
}

/// The text at an address of the program.
fn text(pid: Pid, address: u64) -> String {
    let mut bytes = vec![0; 256];
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).and_then(|memory| memory.read_at(&mut bytes, address));
    bytes.truncate(memory.unwrap_or(0));
    String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
}
