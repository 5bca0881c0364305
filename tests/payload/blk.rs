//! A disk as a guest's driver finds it, and what is left of it when carpel is killed.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::guest::{MACHINES, Running, command, finish, run};

const SECTOR: usize = 512;
const SECTORS: u64 = 32;

/// A disk whose sectors hold their numbers.
fn disk() -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("disk.img");
    let mut file = File::create(&path).unwrap();
    for sector in 0..SECTORS {
        file.write_all(&sector.to_le_bytes().repeat(SECTOR / 8)).unwrap();
    }
    (scratch, path)
}

fn disk_option(path: &Path, keys: &str) -> String {
    format!("{}{keys}", path.display())
}

#[test]
fn a_disk_is_read_written_flushed_and_survives_resets() {
    for machine in MACHINES {
        let (_scratch, path) = disk();
        let disk = disk_option(&path, ",id=carpel-disk");
        let mut command = command("blk", &["--announce", "cmdline", "--disk", &disk]);
        let outcome = finish(command.args(machine)).expect_status(0);
        assert!(outcome.stdout.contains("id carpel-disk\n"), "{machine:?}: {outcome:#?}");
        assert!(outcome.stdout.ends_with("ok works-after-resets\n"), "{machine:?}: {outcome:#?}");
        let expected = (0..SECTORS).map(|sector| if sector < 16 { !sector } else { sector });
        let expected: Vec<u8> = expected.flat_map(|word| word.to_le_bytes().repeat(SECTOR / 8)).collect();
        assert!(fs::read(&path).unwrap() == expected, "{machine:?}");
    }
}

#[test]
fn one_image_has_one_writer() {
    let (_scratch, path) = disk();
    let disk = disk_option(&path, "");
    let mut first =
        Running::start(&mut command("blk", &["--announce", "cmdline", "-a", "mode=journal", "--disk", &disk]));
    first.wait_for("3\n");
    let says = |keys: &str, why: &str| {
        let disk = disk_option(&path, keys);
        let outcome = run("blk", &["--disk", &disk]).expect_status(2);
        let in_use = format!("{} is in use by another guest or process", path.display());
        assert_eq!(outcome.stderr, format!("carpel: Cannot make the device `blk,path={disk}`: {in_use}{why}\n"));
    };
    says("", " (only `ro` can be shared)");
    says(",ro", " that writes to it");
    first.signal(Signal::SIGTERM);
    first.finish().expect_status(143);
    run("hello", &["--disk", &disk]).expect_status(0);
}

/// A loop device; it goes when this does.
struct LoopDevice(String);

impl LoopDevice {
    /// Over this file, read-only.
    fn read_only(path: &Path) -> Self {
        let output = losetup(&["--read-only", "--find", "--show", path.to_str().unwrap()]);
        Self(String::from_utf8(output).unwrap().trim_end().to_owned())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        losetup(&["--detach", &self.0]);
    }
}

/// What only root may do.
fn losetup(args: &[&str]) -> Vec<u8> {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let how: &[&str] = if is_root { &["losetup"] } else { &["sudo", "-n", "losetup"] };
    let output = Command::new(how[0]).args(&how[1..]).args(args).output().unwrap();
    assert!(output.status.success(), "This test needs a loop device, which `losetup` makes: {output:?}");
    output.stdout
}

/// Opening one for writing succeeds, and every write fails.
#[test]
fn a_read_only_block_device_is_refused_like_a_read_only_file() {
    let (_scratch, path) = disk();
    let device = LoopDevice::read_only(&path);
    let outcome = run("hello", &["--disk", &device.0]).expect_status(2);
    let says = format!("Cannot open {} for writing (`ro` takes it read-only): read-only filesystem", device.0);
    assert!(outcome.stderr.contains(&says), "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
    run("hello", &["--disk", &disk_option(Path::new(&device.0), ",ro")]).expect_status(0);
    run("hello", &["--disk", &disk_option(Path::new(&device.0), ",ephemeral")]).expect_status(0);
}

#[test]
fn a_missing_image_is_a_wrong_command_line() {
    let outcome = run("hello", &["--disk", "/nowhere/disk.img"]).expect_status(2);
    let says =
        "carpel: Cannot make the device `blk,path=/nowhere/disk.img`: Cannot open /nowhere/disk.img: No such file";
    assert!(outcome.stderr.starts_with(says), "{outcome:#?}");
}

/// Killing loses nothing that was flushed, whenever it comes.
#[test]
fn what_was_flushed_outlives_carpel() {
    for round in 0..40_u64 {
        let (_scratch, path) = disk();
        let disk = disk_option(&path, "");
        let mut running =
            Running::start(&mut command("blk", &["--announce", "cmdline", "-a", "mode=journal", "--disk", &disk]));
        running.wait_for("1\n");
        thread::sleep(Duration::from_micros(round * 731 % 20_000));
        running.signal(Signal::SIGKILL);
        let outcome = running.finish().expect_status(-9);
        let whole_lines = outcome.stdout.rsplit_once('\n').unwrap().0;
        let told: u64 = whole_lines.rsplit('\n').next().unwrap().parse().unwrap();
        let file = File::open(&path).unwrap();
        for number in told.saturating_sub(SECTORS - 1).max(1)..=told {
            let mut words = [0; SECTOR];
            file.read_exact_at(&mut words, number % SECTORS * SECTOR as u64).unwrap();
            // The sector may have got its next number already, in parts.
            let is_there =
                |word: &[u8]| [number, number + SECTORS].map(u64::to_le_bytes).contains(&word.try_into().unwrap());
            assert!(words.chunks(8).all(is_there), "round {round}: {number} of {told} is lost");
        }
    }
}

/// What of a request leaves the guest for the monitor is its interrupt: the notification ends in the host's kernel.
#[test]
fn a_request_takes_few_exits() {
    const REQUESTS: u64 = 2000;
    let (scratch, path) = disk();
    let report = scratch.path().join("report.json");
    for (depth, most) in [(1, 5 * REQUESTS / 2), (32, REQUESTS)] {
        let disk = disk_option(&path, "");
        let load = format!("mode=load count={REQUESTS} size=512 depth={depth}");
        let mut command = command("blk", &["--announce", "cmdline", "-a", &load, "--disk", &disk, "--report"]);
        let outcome = finish(command.arg(&report)).expect_status(0);
        assert_eq!(outcome.values("ticks").count(), 1, "{outcome:#?}");
        let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(&report).unwrap()).unwrap();
        let exits = report["exits"]["mmio"].as_u64().unwrap();
        assert!(exits <= most, "{exits} exits for {REQUESTS} requests, {depth} at a time");
    }
}

/// A limit on file sizes stands for a host that is full: it would also send a signal that ends programs.
#[test]
fn a_host_that_takes_no_more_is_an_error_for_the_guest() {
    let (_scratch, path) = disk();
    let disk = disk_option(&path, "");
    let carpel = command("blk", &["--announce", "cmdline", "--disk", &disk]);
    let mut limited = Command::new("prlimit");
    limited.arg("--fsize=0").arg(carpel.get_program()).args(carpel.get_args());
    let outcome = finish(limited.stdin(Stdio::null())).expect_status(3);
    assert!(outcome.stdout.contains("FAILED writes: 0x10\n"), "{outcome:#?}");
    let says = format!("The guest gets an I/O error from its disk {}: cannot write 512 bytes at ", path.display());
    assert_eq!(outcome.stderr.matches(&says).count(), 3, "{outcome:#?}");
}
