//! Where reports go, and what they must not leave, spoil or be taken for.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use carpel_testbed::payload;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::carpel::{carpel, complaint, expect_parts, hello, in_namespace, refusal, under, without_capabilities};
use crate::guest::{Outcome, Running, finish};

/// What an earlier run might have left.
const OLD: &str = "{\"outcome\": \"until\", \"status\": 0}\n";

/// Runs a command in a directory.
fn finish_in(directory: &TempDir, command: &mut Command) -> Outcome {
    finish(command.current_dir(directory))
}

/// Runs `hello` with these arguments through a shell line, in which `$@` is the command.
fn shell_in(directory: &TempDir, line: &str, args: &[&str]) -> Outcome {
    finish_in(directory, &mut under(&["sh", "-c", line, "sh"], &hello(args)))
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn json(path: impl AsRef<Path>) -> Value {
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}: {}", path.as_ref().display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_report_of_an_earlier_run_is_gone_when_no_guest_runs() {
    for (args, status) in [
        (&["--disk", "missing"][..], 2),
        (&["--console", "file=missing/log"], 2),
        (&["--until", "("], 2),
        (&["-m", "64K"], 2),
        (&["-i", "missing"], 2),
    ] {
        let directory = tempdir().unwrap();
        for name in ["run.json", "run.xml"] {
            fs::write(directory.path().join(name), OLD).unwrap();
        }
        let args = [args, &["--report", "run.json", "--report", "run.xml"]].concat();
        complaint(finish_in(&directory, &mut hello(&args)), status);
        assert_eq!(names(&directory), [""; 0], "{args:?}");
    }
}

#[test]
fn a_command_line_that_is_not_understood_leaves_no_report_of_carpel_s() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let reports = ["--report=run.json", "--report", "run.xml"];
    for args in [
        &["--frobnicate"][..],
        &["stray"],
        &["--timeout", "soon"],
        &["--report"],
        &["--layout", "ibm"],
        &["--device", "sound"],
        &["--vsock", "cid=2,uds=x"],
        &["--console", "nowhere"],
        &["--report", "./run.xml"],
    ] {
        finish_in(&directory, &mut hello(&reports)).expect_status(0);
        fs::write(path("notes"), OLD).unwrap();
        assert_eq!(names(&directory), ["notes", "run.json", "run.xml"]);
        let args = [&reports[..], &["--report", "notes"], args].concat();
        // A plan would touch nothing.
        complaint(finish_in(&directory, hello(&args).arg("--dry-run")), 2);
        assert_eq!(names(&directory), ["notes", "run.json", "run.xml"], "{args:?}");
        complaint(finish_in(&directory, &mut hello(&args)), 2);
        assert_eq!(names(&directory), ["notes"], "{args:?}");
    }
    // Help is no run.
    finish_in(&directory, &mut hello(&reports)).expect_status(0);
    finish_in(&directory, &mut hello(&[&reports[..], &["--help"]].concat())).expect_status(0);
    assert_eq!(names(&directory), ["notes", "run.json", "run.xml"]);
}

#[test]
fn a_report_of_an_earlier_run_is_gone_when_carpel_is_killed() {
    for signal in [Signal::SIGKILL, Signal::SIGABRT] {
        let directory = tempdir().unwrap();
        let report = directory.path().join("run.json");
        fs::write(&report, OLD).unwrap();
        let mut command = carpel(&["run", "-a", "how=idle", "--report", "run.json", "-k"]);
        let mut guest = Running::start(command.arg(payload::path("end")).current_dir(&directory));
        guest.wait_for("ending");
        assert_eq!(names(&directory), [""; 0]);
        guest.signal(signal);
        guest.finish().expect_status(-(signal as i32));
        assert_eq!(names(&directory), [""; 0]);
    }
}

#[test]
fn a_report_is_kept_where_its_successor_could_not_be_made() {
    let directory = tempdir().unwrap();
    let report = directory.path().join("run.json");
    fs::write(&report, OLD).unwrap();
    fs::set_permissions(&report, Permissions::from_mode(0o444)).unwrap();
    let mut command = hello(&["--report"]);
    let line = complaint(finish(&mut without_capabilities(command.arg(&report))), 2);
    expect_parts(&line, &["the report to", "run.json", "Permission denied"]);
    fs::set_permissions(&report, Permissions::from_mode(0o644)).unwrap();
    let read_only = format!("mount --bind {0} {0}; mount -o remount,bind,ro {0}", directory.path().display());
    let line = complaint(finish(&mut in_namespace(&read_only, &command)), 2);
    expect_parts(&line, &["run.json", "Read-only file system"]);
    fs::set_permissions(&directory, Permissions::from_mode(0o555)).unwrap();
    let line = complaint(finish(&mut without_capabilities(&command)), 2);
    expect_parts(&line, &["run.json", "Permission denied"]);
    assert_eq!(fs::read_to_string(&report).unwrap(), OLD);
    // A plan touches nothing.
    finish(command.arg("--dry-run")).expect_status(0);
    assert_eq!(fs::read_to_string(&report).unwrap(), OLD);
}

#[test]
fn a_report_is_new_whole_and_alone() {
    let directory = tempdir().unwrap();
    let report = directory.path().join("run.json");
    fs::write(&report, OLD).unwrap();
    let backup = directory.path().join("backup.json");
    fs::hard_link(&report, &backup).unwrap();
    shell_in(&directory, "umask 027; exec \"$@\"", &["--report", "run.json", "--report", "./new.xml"]).expect_status(0);
    assert_eq!(names(&directory), ["backup.json", "new.xml", "run.json"]);
    assert_eq!(json(&report)["outcome"], "power-off");
    assert_eq!(fs::read_to_string(&backup).unwrap(), OLD, "another name of the old report");
    let mode = fs::metadata(directory.path().join("new.xml")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn a_report_keeps_mode_and_owner_of_the_one_before() {
    let directory = tempdir().unwrap();
    let report = directory.path().join("run.json");
    fs::write(&report, OLD).unwrap();
    fs::set_permissions(&report, Permissions::from_mode(0o604)).unwrap();
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if is_root {
        std::os::unix::fs::chown(&report, Some(12345), Some(23456)).unwrap();
    }
    let old = fs::metadata(&report).unwrap();
    finish_in(&directory, &mut hello(&["--report", "run.json"])).expect_status(0);
    let new = fs::metadata(&report).unwrap();
    assert_eq!((new.mode(), new.uid(), new.gid()), (old.mode(), old.uid(), old.gid()));
}

#[test]
fn a_report_goes_where_symbolic_links_lead() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("real")).unwrap();
    fs::write(path("real/run.json"), OLD).unwrap();
    symlink("real", path("folder")).unwrap();
    symlink("folder/../real/run.json", path("old.json")).unwrap();
    symlink("folder/new.json", path("dangling.json")).unwrap();
    symlink("loop.json", path("loop.json")).unwrap();
    finish_in(&directory, &mut hello(&["--report", "old.json", "--report", "dangling.json"])).expect_status(0);
    for name in ["real/run.json", "real/new.json"] {
        assert_eq!(json(path(name))["outcome"], "power-off");
        assert!(fs::symlink_metadata(path(name)).unwrap().is_file());
    }
    for name in ["old.json", "dangling.json"] {
        assert!(fs::symlink_metadata(path(name)).unwrap().is_symlink(), "{name}");
    }
    let line = complaint(finish_in(&directory, &mut hello(&["--report", "loop.json"])), 2);
    expect_parts(&line, &["loop.json", "Too many levels of symbolic links"]);
}

#[test]
fn two_reports_at_one_place_are_refused() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("old"), OLD).unwrap();
    fs::hard_link(path("old"), path("hard")).unwrap();
    symlink("old", path("soft")).unwrap();
    symlink("none", path("dangling")).unwrap();
    symlink(".", path("here")).unwrap();
    mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
    let before = names(&directory);
    for (one, other) in [
        ("old", "old"),
        ("old", "./old"),
        ("old", "hard"),
        ("old", "soft"),
        ("none", "dangling"),
        ("none", "here/none"),
        ("fifo", "here/fifo"),
        ("-", "/dev/stdout"),
        ("-", "/proc/self/fd/1"),
        ("/dev/fd/1", "/proc/thread-self/fd/1"),
    ] {
        let args = ["--console", "null", "--report", one, "--report", other];
        let line = complaint(finish_in(&directory, &mut hello(&args)), 2);
        expect_parts(&line, &[&format!("the report to {other}: It is in use by another report: {one}")]);
        assert_eq!(names(&directory), before, "{one} {other}");
        assert_eq!(fs::read_to_string(path("old")).unwrap(), OLD);
    }
    // What keeps nothing has room for all.
    finish_in(&directory, &mut hello(&["--report", "/dev/null", "--report", "/dev/null"])).expect_status(0);
}

#[test]
fn no_report_replaces_what_the_run_uses() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["kernel", "initrd", "disk.img"] {
        fs::copy(payload::path("hello"), path(name)).unwrap();
    }
    fs::hard_link(path("kernel"), path("hard")).unwrap();
    symlink("initrd", path("soft")).unwrap();
    symlink(".", path("here")).unwrap();
    let before = names(&directory);
    for (args, report, user) in [
        (&[][..], "kernel", "the kernel"),
        (&[], "hard", "the kernel"),
        (&["-i", "initrd"], "soft", "the initial RAM disk"),
        (&["--firmware", "kernel"], "here/hard", "the kernel"),
        (&["--disk", "disk.img,ro"], "here/disk.img", "`blk,path=disk.img,ro`"),
        (&["--console", "file=log"], "here/log", "the console"),
        (&["--console", "socket=log"], "here/log", "the console"),
        (&["--device", "console,name=a,file=log"], "here/log", "`console,name=a,file=log`"),
        (&["--vsock", "cid=3,uds=log"], "here/log", "`vsock,uds=log`"),
    ] {
        let mut command = carpel(&["run", "-k", "kernel", "--report", report]);
        let line = complaint(finish_in(&directory, command.args(args)), 2);
        expect_parts(&line, &[&format!("the report to {report}: It is in use by another part of the run: {user}")]);
        assert_eq!(names(&directory), before, "{args:?}");
    }
    let image = fs::read(payload::path("hello")).unwrap();
    assert!(["kernel", "initrd", "disk.img"].iter().all(|name| fs::read(path(name)).unwrap() == image));
}

#[test]
fn no_console_empties_what_the_guest_boots() {
    let directory = tempdir().unwrap();
    let image = fs::read(payload::path("hello")).unwrap();
    for name in ["kernel", "initrd"] {
        fs::write(directory.path().join(name), &image).unwrap();
    }
    for output in ["kernel", "initrd"] {
        for args in [["--console", &format!("file=./{output}")], ["--device", &format!("console,name=a,file={output}")]]
        {
            let mut command = carpel(&["run", "-k", "kernel", "-i", "initrd"]);
            let line = complaint(finish_in(&directory, command.args(args)), 2);
            expect_parts(&line, &["It is in use by another part of the run: the "]);
            assert_eq!(fs::read(directory.path().join(output)).unwrap(), image);
        }
    }
}

#[test]
fn an_image_under_a_disk_is_no_old_report() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("base.img"), vec![0; 1 << 20]).unwrap();
    fs::write(path("disk.qcow2"), overlay("base.img", 1 << 20)).unwrap();
    let disk = ["--disk", "disk.qcow2,format=qcow2"];
    finish_in(&directory, &mut hello(&disk)).expect_status(0);
    let args = [&disk[..], &["--report", "base.img"]].concat();
    let line = complaint(finish_in(&directory, &mut hello(&args)), 2);
    expect_parts(&line, &["in use by another"]);
    assert_eq!(fs::read(path("base.img")).unwrap(), vec![0; 1 << 20]);
}

/// An empty qcow2 image on a raw one. Fields: QEMU, docs/interop/qcow2.txt, version 3.
fn overlay(base: &str, size: u64) -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xFB");
    put(4, &3_u32.to_be_bytes());
    put(8, &256_u64.to_be_bytes());
    put(16, &(base.len() as u32).to_be_bytes());
    put(20, &16_u32.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &1_u32.to_be_bytes());
    // The first level of mappings, then the counts of uses.
    put(40, &(3 * CLUSTER as u64).to_be_bytes());
    put(48, &(CLUSTER as u64).to_be_bytes());
    put(56, &1_u32.to_be_bytes());
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    // The format of what it is on.
    put(104, &0xE279_2ACA_u32.to_be_bytes());
    put(108, &3_u32.to_be_bytes());
    put(112, b"raw");
    put(256, base.as_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..4 {
        put(2 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    image
}

#[test]
fn a_standard_stream_is_replaced_by_no_report() {
    let directory = tempdir().unwrap();
    for (line, name) in [
        ("exec \"$@\" --report out > out", "the console"),
        ("exec \"$@\" --report ./out >> out", "the console"),
        ("exec \"$@\" --console null --report out > out", "standard output"),
        ("exec \"$@\" --report in < in", "standard input"),
    ] {
        fs::write(directory.path().join("in"), "typed").unwrap();
        let outcome = shell_in(&directory, line, &[]);
        expect_parts(&complaint(outcome, 2), &[&format!("It is in use by another part of the run: {name}")]);
    }
    assert_eq!(fs::read_to_string(directory.path().join("in")).unwrap(), "typed");
    shell_in(&directory, "exec \"$@\" --report errors 2> errors", &[]).expect_status(2);
    let errors = fs::read_to_string(directory.path().join("errors")).unwrap();
    expect_parts(&errors, &["the report to errors", "another part of the run: standard error"]);
}

#[test]
fn a_report_on_standard_output_stands_there_alone() {
    let outcome = finish(&mut hello(&["--console", "null", "--report", "-"])).expect_status(0);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["outcome"], "power-off");
    for name in ["-", "/dev/stdout", "/dev/fd/1"] {
        let line = refusal(&mut hello(&["--report", name]), 2);
        expect_parts(&line, &[&format!("the report to {name}: "), "the console (see --console)"]);
        // A dry run tells of it as a run does.
        assert_eq!(refusal(&mut hello(&["--report", name, "--dry-run"]), 2), line);
    }
    // A file of this name is another thing.
    let directory = tempdir().unwrap();
    finish_in(&directory, &mut hello(&["--report", "./-"])).expect_status(0);
    assert_eq!(names(&directory), ["-"]);
}

#[test]
fn what_is_no_file_of_its_own_is_added_to() {
    let directory = tempdir().unwrap();
    let log = directory.path().join("log");
    for (line, lines) in [
        ("echo before; \"$@\" --console null --report -; echo after", 0),
        ("echo before; \"$@\" --console null --report /dev/stdout; echo after", 0),
        ("echo before; \"$@\" --console null --report /dev/stderr 2>&1 1>&3; echo after", 0),
        ("echo before; \"$@\" --report /dev/fd/4 4>&1 >&3", 1),
    ] {
        fs::write(&log, "").unwrap();
        shell_in(&directory, &format!("exec 3> console > log; {line}"), &[]).expect_status(0);
        let text = fs::read_to_string(&log).unwrap();
        let report = text.strip_prefix("before\n").unwrap_or_else(|| panic!("{line}: {text}"));
        let report = if lines == 0 { report.strip_suffix("after\n").unwrap() } else { report };
        let report: Value = serde_json::from_str(report).unwrap_or_else(|error| panic!("{line}: {error}: {text}"));
        assert_eq!(report["outcome"], "power-off");
    }
}

#[test]
fn a_pipe_gets_the_report_and_stays() {
    let directory = tempdir().unwrap();
    let fifo = directory.path().join("run.xml");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let guest = Running::start(hello(&["--report", "run.xml"]).current_dir(&directory));
    let mut report = String::new();
    File::open(&fifo).unwrap().read_to_string(&mut report).unwrap();
    guest.finish().expect_status(0);
    expect_parts(&report, &["<testsuite ", "</testsuite>\n"]);
    assert_eq!(names(&directory), ["run.xml"]);
    // A reader that has seen enough changes no verdict.
    let guest = Running::start(hello(&["--report", "run.xml"]).current_dir(&directory));
    drop(File::open(&fifo).unwrap());
    guest.finish().expect_status(0);
}

#[test]
fn a_reader_that_never_reads_holds_up_no_signal() {
    let directory = tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    // Longer than what a pipe holds.
    let name = "a".repeat(100 << 10);
    let mut command = hello(&["--name", &name, "--report", "fifo", "--report", "run.json"]);
    let guest = Running::start(command.current_dir(&directory));
    let _pipe = File::open(&fifo).unwrap();
    while !directory.path().join("run.json").exists() {
        std::thread::yield_now();
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    guest.signal(Signal::SIGTERM);
    guest.finish().expect_status(143);
    assert_eq!(json(directory.path().join("run.json"))["outcome"], "power-off");
}

#[test]
fn a_report_that_cannot_be_written_gives_125_after_the_verdict() {
    let outcome = finish(&mut hello(&["--report", "/dev/full"]));
    assert_eq!(outcome.stdout, "Hello from a guest\n");
    expect_parts(&complaint(outcome, 125), &["the report to /dev/full", "No space left on device"]);
    let directory = tempdir().unwrap();
    fs::write(directory.path().join("run.json"), OLD).unwrap();
    // A limit on file sizes stands for a full disk.
    let mut dead = carpel(&["run", "-a", "how=pvpanic", "--report", "run.json", "--report", "run.xml", "-k"]);
    let mut limited = under(&["prlimit", "--fsize=100"], dead.arg(payload::path("end")));
    let outcome = finish_in(&directory, &mut limited).expect_status(125);
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(lines[0], "carpel: The guest kernel panicked");
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, name) in lines[1..].iter().zip(["run.json", "run.xml"]) {
        expect_parts(line, &[&format!("carpel: Cannot write the report to {name}: File too large")]);
    }
    assert_eq!(names(&directory), [""; 0]);
}

#[test]
fn a_full_disk_leaves_no_half_of_a_report() {
    let directory = tempdir().unwrap();
    let place = directory.path().display();
    let script = format!("mount -t tmpfs -o size=8k none {place}; head -c 8192 /dev/zero > {place}/fill; cd {place}");
    let line = format!("\"$@\" --report {place}/run.json; test $? = 125 || exit 1; ls -A {place} >&2; exit 7");
    let outcome = finish(&mut in_namespace(&script, &under(&["sh", "-c", &line, "sh"], &hello(&[])))).expect_status(7);
    let lines: Vec<_> = outcome.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    expect_parts(lines[0], &["run.json", "No space left on device"]);
    assert_eq!(lines[1], "fill");
}

#[test]
fn what_cannot_hold_a_report_is_refused() {
    let directory = tempdir().unwrap();
    fs::create_dir(directory.path().join("folder")).unwrap();
    for (report, reason) in [
        ("folder", "Is a directory"),
        ("folder/", "Is a directory"),
        ("new/", "Is a directory"),
        ("missing/run.json", "No such file or directory"),
        ("/dev/fd/77", "No such file or directory"),
        ("/dev/null/run.json", "Not a directory"),
    ] {
        let line = complaint(finish_in(&directory, &mut hello(&["--report", report])), 2);
        expect_parts(&line, &[&format!("Cannot write the report to {report}: {reason}")]);
    }
    assert_eq!(names(&directory), ["folder"]);
}

#[test]
fn names_that_are_no_text_are_reported() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let directory = tempdir().unwrap();
    let kernel = OsStr::from_bytes(b"ker\xFFnel \x01<&\">'");
    fs::copy(payload::path("hello"), directory.path().join(kernel)).unwrap();
    let mut command = carpel(&["run", "--report", "run.json", "--report", "run.xml", "-k"]);
    finish_in(&directory, command.arg(kernel).stdin(Stdio::null())).expect_status(0);
    let name = "ker\u{FFFD}nel \u{1}<&\">'";
    let report = json(directory.path().join("run.json"));
    assert_eq!((&report["kernel"], &report["name"]), (&name.into(), &name.into()));
    let junit = fs::read_to_string(directory.path().join("run.xml")).unwrap();
    expect_parts(&junit, &["name=\"ker\u{FFFD}nel \u{FFFD}&lt;&amp;&quot;&gt;'\""]);
}
