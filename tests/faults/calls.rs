//! Every system call from main's first to the guest's first exit fails once, with each error that the manual has for it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use carpel_testbed::payload;
use nix::errno::Errno;
use tempfile::TempDir;

use crate::carpel::carpel;
use crate::errnos;
use crate::ignored;
use crate::tracer::{Call, Fault, KVM_RUN, Run, trace};

/// So many runs at a time for each processor: each waits for its own stops much of the time.
const RUNS_PER_CPU: usize = 2;
/// Devices of most kinds, by threads and by the main thread, and what is left in the directory where all went well.
const CONFIGS: &[(&[&str], &[&str])] = &[
    (
        &[
            "-c",
            "2",
            "-i",
            "initrd",
            "--disk",
            "disk",
            "--console",
            "file=log",
            "--vsock",
            "uds=vsock",
            "--report",
            "run.json",
            "--timeout",
            "20s",
            "--device",
            "rng",
            "--device",
            "balloon,size=1M",
        ],
        &["disk", "initrd", "kernel", "log", "run.json", "tmp"],
    ),
    (
        &[
            "-c",
            "2",
            "--disk",
            "disk,engine=threads,ephemeral",
            "--device",
            "console,name=a,socket=port",
            "--device",
            "irqchip,mode=full",
        ],
        &["disk", "initrd", "kernel", "tmp"],
    ),
];

/// A run in a directory of its own.
struct Traced {
    run: Run,
    stderr: String,
    /// What the guest printed.
    printed: String,
    directory: TempDir,
}

impl Traced {
    fn files(&self) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        assert_eq!(fs::read_dir(self.directory.path().join("tmp")).unwrap().count(), 0, "Temporary files stay");
        let mut files: Vec<_> = fs::read_dir(self.directory.path()).unwrap().map(name).collect();
        files.sort();
        files
    }
}

fn run(config: &[&str], fault: Option<&Fault>) -> Traced {
    let (directory, outputs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (at, of) = (|name: &str| directory.path().join(name), |name: &str| outputs.path().join(name));
    fs::copy(payload::path("hello"), at("kernel")).unwrap();
    fs::write(at("initrd"), [7; 4096]).unwrap();
    fs::create_dir(at("tmp")).unwrap();
    File::create(at("disk")).unwrap().set_len(64 << 10).unwrap();
    let mut command: Command = carpel(&["run", "-k", "kernel", "-m", "32M"]);
    command.args(config).current_dir(&directory).env("TMPDIR", at("tmp"));
    command.stdout(File::create(of("stdout")).unwrap()).stderr(File::create(of("stderr")).unwrap());
    let run = trace(&mut command, fault);
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let printed = text(&of("stdout")) + &text(&at("log"));
    Traced { run, stderr: text(&of("stderr")), printed, directory }
}

/// What is wrong with a run in which something failed.
fn judge(traced: &Traced, left: &[&str], fault: &Fault) -> Result<(), String> {
    let Traced { run, stderr, printed, .. } = traced;
    if run.hung {
        return Err("it hangs".into());
    }
    let files = traced.files();
    if let Some(file) = files.iter().find(|file| !left.contains(&file.as_str())) {
        return Err(format!("it leaves `{file}`"));
    }
    if run.status == 0 {
        let only_warnings = stderr.lines().all(|line| line.contains(" WARN "));
        if printed != "Hello from a guest\n" || !only_warnings || files != left {
            return Err("it says that all is well".into());
        }
        return if !run.hit || ignored::reason(fault).is_some() { Ok(()) } else { Err("nobody notices".into()) };
    }
    // What KVM says of a guest that it cannot go on with has its registers behind the first line.
    let dead = fault.call.request == KVM_RUN && run.status == 121 && stderr.starts_with("carpel: vCPU ");
    if dead {
        return Ok(());
    }
    let names_file = ["kernel", "initrd", "disk", "log", "run.json", "vsock", "port", "console"]
        .iter()
        .any(|name| stderr.contains(name));
    let line = stderr.strip_suffix('\n').filter(|line| line.starts_with("carpel: ") && !line.contains('\n'));
    if !(run.status == 125 || run.status == 2 && names_file) || line.is_none() || stderr.contains("Internal error") {
        return Err("that is not one line and 125, or 2 with a file named".into());
    }
    if files.iter().any(|file| file == "run.json") {
        let report = fs::read(traced.directory.path().join("run.json")).unwrap();
        let status = serde_json::from_slice::<serde_json::Value>(&report).ok().map(|report| report["status"].clone());
        if status != Some(run.status.into()) {
            return Err("its report is not of this run".into());
        }
    }
    Ok(())
}

/// The faults of a configuration: every call with every error.
fn faults(calls: &[(Call, String)]) -> Vec<Fault> {
    let is_spared = |call: &Call| ignored::SPARED.iter().any(|(number, _)| *number == call.number);
    let of_call = |(call, file): &(Call, String)| -> Vec<Fault> {
        let errnos = errnos::of(call.number, call.request);
        let errnos = errnos.unwrap_or_else(|| panic!("{call:?} has no errors in tests/faults/errnos.rs"));
        errnos.iter().map(|&errno| Fault { call: call.clone(), file: file.clone(), errno: errno as i32 }).collect()
    };
    calls.iter().filter(|(call, _)| !is_spared(call)).flat_map(of_call).collect()
}

/// Runs every fault, and notes by its kind what is wrong.
fn find_wrong(config: &[&str], left: &[&str], faults: &[Fault]) -> Vec<(String, String)> {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            let traced = run(config, Some(fault));
            if let Err(what) = judge(&traced, left, fault) {
                let Fault { call: Call { thread, number, request, index }, file, errno } = fault;
                let (status, stderr) = (traced.run.status, traced.stderr);
                let kind = format!("call {number} {request:#x} of `{file}`: {what}: {status} {stderr:?}");
                let which = format!("{thread:?}#{index} {:?}", Errno::from_raw(*errno));
                wrong.lock().unwrap().push((kind, which));
            }
        }
    };
    let workers = thread::available_parallelism().unwrap().get() * RUNS_PER_CPU;
    thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    wrong.into_inner().unwrap()
}

#[test]
fn every_call_of_a_start_fails_with_one_line_and_leaves_nothing() {
    let mut wrong = BTreeMap::<String, Vec<String>>::new();
    for (config, left) in CONFIGS {
        let sound = run(config, None);
        let (status, files) = (sound.run.status, sound.files());
        assert!(status == 0 && files == *left, "{status} {:?} {files:?}", sound.stderr);
        let faults = faults(&sound.run.calls);
        println!("{} calls fail in {} ways", sound.run.calls.len(), faults.len());
        assert!(sound.run.calls.len() > 150 && faults.len() > 1000, "The start was seen");
        for (kind, which) in find_wrong(config, left, &faults) {
            wrong.entry(kind).or_default().push(which);
        }
    }
    let lines: Vec<_> = wrong.iter().map(|(kind, which)| format!("{kind}\n    {}", which.join(", "))).collect();
    assert!(wrong.is_empty(), "{} kinds of faults:\n{}", wrong.len(), lines.join("\n"));
}
