//! Files of the host that answer no more: whatever waits for them, the run ends.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::carpel::carpel;
use crate::fuse::{Hang, HangingFs, Manner, Operation, full_pipe, may_mount};
use crate::guest::{Running, command, wait};
use carpel_testbed::payload;

/// An end waits two seconds for I/O in flight, and one more for all else; the rest is for a busy machine.
const BOUND: Duration = Duration::from_secs(5);
const DISK: usize = 64 << 10;
const NEVER: Hang = Hang { operation: Operation::Read, after: usize::MAX, manner: Manner::Stopped };

/// A disk whose sectors hold their numbers.
fn disk() -> Vec<u8> {
    (0..DISK as u64 / 512).flat_map(|sector| sector.to_le_bytes().repeat(512 / 8)).collect()
}

/// Waits for a guest whose end is due, and checks its status and what it says.
#[track_caller]
fn expect_end(guest: Running, since: Instant, status: i32, last_line: &str) -> String {
    let outcome = guest.finish().expect_status(status);
    assert!(since.elapsed() < BOUND, "{:?}: {outcome:#?}", since.elapsed());
    assert!(outcome.stderr.ends_with(&format!("carpel: {last_line}\n")), "{outcome:#?}");
    outcome.stderr
}

/// Ends a guest whose requests hang, by a signal.
fn end_by_signal(engine: &str, mode: &str, ready: &str, operation: Operation, manner: Manner) {
    // The host's page cache is out of the way where requests are to reach the server one by one.
    let direct = manner == Manner::Interruptible || operation == Operation::Read;
    let fs = HangingFs::mount(disk(), direct, NEVER);
    let scratch = tempfile::tempdir().unwrap();
    let (socket, report) = (scratch.path().join("vsock"), scratch.path().join("run.json"));
    let mut command = command("blk", &["--announce", "cmdline", "-a", mode, "--disk"]);
    command.arg(format!("{},engine={engine}", fs.file().display()));
    command.arg("--vsock").arg(format!("uds={}", socket.display())).arg("--report").arg(&report);
    let mut guest = Running::start(command.stdin(Stdio::null()));
    guest.wait_for(ready);
    // The guest reads as soon as it runs; before that carpel itself does.
    fs.hang(Hang { operation, after: if operation == Operation::Read { 20 } else { 0 }, manner });
    fs.wait_until_hung();
    let since = Instant::now();
    guest.signal(Signal::SIGTERM);
    let said = expect_end(guest, since, 143, "Ended by signal 15");
    assert!(said.lines().count() == 2 && said.contains("did not finish I/O in 2s"), "{said}");
    assert!(!socket.exists());
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["status"], 143);
}

#[test]
fn a_disk_that_hangs_holds_up_no_end() {
    if !may_mount("hanging::a_disk_that_hangs_holds_up_no_end") {
        return;
    }
    let cases = ["uring", "threads"].into_iter().flat_map(|engine| {
        let endless = "mode=load count=1000000 size=4096 depth=8";
        [
            (engine, "mode=journal", "3\n", Operation::Write),
            (engine, "mode=journal", "3\n", Operation::Sync),
            (engine, endless, "", Operation::Read),
        ]
    });
    let cases = cases.flat_map(|case| [(case, Manner::Stopped), (case, Manner::Interruptible)]);
    let runs: Vec<_> = cases
        .map(|((engine, mode, ready, operation), manner)| {
            thread::spawn(move || end_by_signal(engine, mode, ready, operation, manner))
        })
        .collect();
    for run in runs {
        run.join().unwrap();
    }
}

/// Meanwhile the guest's vCPU waits for the reset, and the timeout is what ends it.
#[test]
fn a_reset_amid_requests_that_hang_holds_up_no_end() {
    if !may_mount("hanging::a_reset_amid_requests_that_hang_holds_up_no_end") {
        return;
    }
    for (engine, manner) in [("uring", Manner::Stopped), ("threads", Manner::Interruptible)] {
        let fs = HangingFs::mount(disk(), true, Hang { operation: Operation::Read, after: 400, manner });
        let since = Instant::now();
        let mut command = command("blk", &["--announce", "cmdline", "--timeout", "4s", "--disk"]);
        command.arg(format!("{},engine={engine}", fs.file().display()));
        let guest = Running::start(command.stdin(Stdio::null()));
        fs.wait_until_hung();
        assert!(since.elapsed() < Duration::from_secs(4), "The guest came too late to its resets");
        expect_end(guest, since + Duration::from_secs(4), 124, "The guest ran longer than --timeout");
    }
}

/// A vCPU's thread, or the main thread, waits for a file where no signal interrupts it.
#[test]
fn output_that_hangs_holds_up_no_end() {
    if !may_mount("hanging::output_that_hangs_holds_up_no_end") {
        return;
    }
    let hang = Hang { operation: Operation::Write, after: 1, manner: Manner::Stopped };
    let fs = HangingFs::mount(Vec::new(), true, hang);
    let mut flood = carpel(&["run", "--console"]);
    flood.arg(format!("file={}", fs.file().display())).arg("-k").arg(payload::path("flood"));
    let guest = Running::start(&mut flood);
    fs.wait_until_hung();
    let since = Instant::now();
    guest.signal(Signal::SIGTERM);
    expect_end(guest, since, 143, "Ended by signal 15");

    let fs = HangingFs::mount(
        Vec::new(),
        true,
        Hang { operation: Operation::Write, after: 0, manner: Manner::Interruptible },
    );
    let report = fs.file();
    let guest = Running::start(carpel(&["run", "--report"]).arg(report).arg("-k").arg(payload::path("hello")));
    fs.wait_until_hung();
    let outcome = guest.finish().expect_status(0);
    assert!(outcome.elapsed < BOUND && outcome.stderr.is_empty(), "{outcome:#?}");
}

/// The kernel's header is read while signals have their default, the kernel itself when they are the event loop's.
#[test]
fn a_kernel_that_hangs_holds_up_neither_signal_nor_timeout() {
    if !may_mount("hanging::a_kernel_that_hangs_holds_up_neither_signal_nor_timeout") {
        return;
    }
    let kernel = std::fs::read(payload::path("hello")).unwrap();
    // Reads of the header are 4096 bytes at most each; the last one is that of the first segment.
    let reads = |fs: &HangingFs, args: &[&str]| {
        let guest = Running::start(carpel(args).arg("-k").arg(fs.file()));
        fs.wait_until_hung();
        guest
    };
    for after in [0, 9] {
        let fs = HangingFs::mount(
            kernel.clone(),
            true,
            Hang { operation: Operation::Read, after, manner: Manner::Interruptible },
        );
        let since = Instant::now();
        let guest = reads(&fs, &["run", "--timeout", "1s"]);
        let timed_out = "The guest ran longer than --timeout; what waits for the host is left behind";
        expect_end(guest, since + Duration::from_secs(1), 124, timed_out);
    }
    let fs = HangingFs::mount(kernel, true, Hang { operation: Operation::Read, after: 9, manner: Manner::Stopped });
    let guest = reads(&fs, &["run"]);
    let since = Instant::now();
    guest.signal(Signal::SIGTERM);
    expect_end(guest, since, 143, "Ended by signal 15; what waits for the host is left behind");
}

#[test]
fn a_stderr_that_nobody_reads_holds_up_no_end() {
    let (_reader, writer) = full_pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_carpel"));
    command.args(["run", "--timeout", "500ms", "-a", "how=idle", "-k"]).arg(payload::path("end"));
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    assert_eq!(wait(&mut child, started), 124);
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
}
