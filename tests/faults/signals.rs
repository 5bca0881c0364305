//! A signal at any moment of a start: once there are threads, it ends the run in order.

use std::fs::{self, File};
use std::process::Stdio;

use carpel_testbed::payload;
use nix::libc;
use nix::sys::signal::Signal;

use crate::carpel::carpel;
use crate::tracer::{Call, Meddling, Run, trace};

/// What the run may leave: what was there before, and its report.
const LEFT: [&str; 3] = ["disk", "report", "stderr"];

/// A guest that does not end by itself; returns what it came to, what it said, its report's status and its files.
fn run(meddling: Meddling) -> (Run, String, Option<u64>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    File::create(at("disk")).unwrap().set_len(64 << 10).unwrap();
    let mut command = carpel(&["run", "-c", "2", "-m", "32M", "-a", "how=idle", "--timeout", "10s"]);
    command.args(["--disk", "disk", "--vsock", "uds=vsock", "--report", "report", "-k"]).arg(payload::path("end"));
    command.current_dir(&directory).stdout(Stdio::null()).stderr(File::create(at("stderr")).unwrap());
    let run = trace(&mut command, meddling);
    let report = fs::read(at("report")).ok().and_then(|report| serde_json::from_slice(&report).ok());
    let status = report.and_then(|report: serde_json::Value| report["status"].as_u64());
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(name).collect();
    files.sort();
    (run, fs::read_to_string(at("stderr")).unwrap(), status, files)
}

/// The calls behind that which starts the first thread.
fn calls_with_threads(run: &Run) -> impl Iterator<Item = &Call> {
    let calls = run.calls.iter().map(|(call, _)| call);
    calls.skip_while(|call| call.number != libc::SYS_clone3).skip(1)
}

#[test]
fn a_signal_at_any_call_of_a_start_ends_the_run_with_its_status_and_report() {
    let (sound, ..) = run(Meddling::None);
    assert_eq!(sound.status, 124);
    let calls: Vec<_> = calls_with_threads(&sound).collect();
    assert!(calls.len() > 100, "{}", calls.len());
    let mut met = 0;
    for (call, signal) in calls.iter().zip([Signal::SIGTERM, Signal::SIGHUP].into_iter().cycle()) {
        let (run, stderr, reported, files) = run(Meddling::Signal(call, signal));
        let status = 128 + signal as i32;
        // Threads that run at the same time share their calls as it comes: a few are not made again.
        if !run.hit && run.status == 124 {
            continue;
        }
        met += 1;
        let said = format!("carpel: Ended by signal {}\n", signal as i32);
        let all = (run.status, stderr, reported, files.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(all, (status, said, u64::try_from(status).ok(), LEFT.to_vec()), "{signal} at {call:?}");
    }
    assert!(met * 10 > calls.len() * 9, "{met} of {}", calls.len());
}
