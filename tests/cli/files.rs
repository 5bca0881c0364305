//! Files that are no kernel and no initial RAM disk.

use std::fs::{self, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use carpel_testbed::payload;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::tempdir;

use crate::carpel::{carpel, complaint, expect_parts, hello, refusal, under, without_capabilities};
use crate::guest::{Running, finish};

/// Deterministic noise (xorshift, Marsaglia 2003).
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % below
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next(256) as u8).collect()
    }
}

#[test]
fn what_is_no_readable_regular_file_is_named_with_the_reason() {
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("empty"), "").unwrap();
    fs::write(path("locked"), "text").unwrap();
    fs::set_permissions(path("locked"), Permissions::from_mode(0o000)).unwrap();
    fs::create_dir(path("directory")).unwrap();
    symlink("loop", path("loop")).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();

    for (name, reason) in [
        ("missing", "No such file or directory"),
        ("missing\nline", "No such file or directory"),
        ("empty", "It is empty"),
        ("empty/below", "Not a directory"),
        ("locked", "Permission denied"),
        ("directory", "It is a directory, not a regular file"),
        ("socket", "No such device or address"),
        ("loop", "Too many levels of symbolic links"),
        ("/dev/zero", "It is a device, not a regular file"),
    ] {
        let file = path(name);
        let shown = file.to_str().unwrap().escape_debug().to_string();
        let kernel = carpel(&["run".as_ref(), "-k".as_ref(), file.as_os_str()]);
        expect_parts(&refusal(&mut without_capabilities(&kernel), 2), &[&shown, "the kernel", reason]);
        let mut initrd = hello(&["-i"]);
        initrd.arg(file);
        expect_parts(&refusal(&mut without_capabilities(&initrd), 2), &[&shown, "the initial RAM disk", reason]);
    }
}

/// `carpel run` of what a shell's process substitutions yield.
fn shell(script: &str) -> Command {
    under(&["bash", "-c", &format!("exec \"$0\" \"$@\" {script}")], &carpel(&["run"]))
}

#[test]
fn kernel_and_initrd_may_be_pipes() {
    let hello = payload::path("hello").display().to_string();
    for script in [
        format!("-k <(cat {hello})"),
        format!("-k <(sleep 0.2; gzip -c {hello}) -i <(sleep 0.3; echo initrd)"),
        format!("-k /dev/stdin < <(cat {hello})"),
        format!("-k {hello} -i /dev/stdin < <(echo initrd)"),
    ] {
        let outcome = finish(&mut shell(&script)).expect_status(0);
        assert_eq!(outcome.stdout, "Hello from a guest\n", "{script}");
    }
    let empty = complaint(finish(&mut shell(&format!("-k {hello} -i <(true)"))), 2);
    expect_parts(&empty, &["the initial RAM disk", "It is empty"]);
    let endless = complaint(finish(&mut shell(&format!("-m 64M -k {hello} -i <(cat /dev/zero)"))), 2);
    expect_parts(&endless, &["more than the guest's memory of 67108864 bytes", "--mem"]);
}

#[test]
fn a_named_pipe_is_waited_for_until_a_signal_or_the_time_ends_that() {
    let directory = tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let timed_out = complaint(finish(run(&fifo).args(["--timeout", "300ms"])), 124);
    expect_parts(&timed_out, &["--timeout"]);
    // Neither before its writer has come nor while that says nothing.
    for writes in [false, true] {
        let waiting = Running::start(&mut run(&fifo));
        let _writer = writes.then(|| fs::File::options().write(true).open(&fifo).unwrap());
        std::thread::sleep(Duration::from_millis(200));
        waiting.signal(Signal::SIGTERM);
        let outcome = waiting.finish();
        assert!(outcome.elapsed < Duration::from_secs(5), "{outcome:?}");
        assert!([143, -15].contains(&outcome.status), "{outcome:?}");
    }
    let waiting = Running::start(&mut run(&fifo));
    fs::copy(payload::path("hello"), &fifo).unwrap();
    assert_eq!(waiting.finish().expect_status(0).stdout, "Hello from a guest\n");
}

#[test]
fn noise_is_no_kernel() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("noise");
    let mut noise = Noise(1);
    for size in [1, 7, 64, 511, 512, 4096, 100_000] {
        fs::write(&file, noise.bytes(size)).unwrap();
        let line = refusal(&mut run(&file), 2);
        expect_parts(&line, &[file.to_str().unwrap(), "It is neither a bzImage"]);
    }
}

#[test]
fn an_initrd_that_does_not_fit_is_told_with_sizes() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("initrd");
    fs::File::create(&file).unwrap().set_len(40 << 20).unwrap();
    let line = refusal(hello(&["-m", "32M", "-i"]).arg(&file), 2);
    expect_parts(&line, &["32 MiB", "the least --mem that works is "]);
    let (_, least) = line.split_once("the least --mem that works is ").unwrap();
    finish(hello(&["-m", least.split(':').next().unwrap(), "-i"]).arg(&file)).expect_status(0);
}

#[test]
fn a_truncated_elf_is_refused_at_every_length() {
    let image = fs::read(payload::path("hello")).unwrap();
    let needed = loaded_end(&image);
    assert!((64..=image.len()).contains(&needed), "{needed}");
    let headers = 1..512.min(needed);
    check_truncations(&image, headers.step_by(3).chain((512..needed).step_by(997)).chain([needed - 1]));
    let directory = tempdir().unwrap();
    let file = directory.path().join("kernel");
    fs::write(&file, &image[..needed]).unwrap();
    finish(&mut run(&file)).expect_status(0);
}

#[test]
fn a_truncated_bzimage_is_refused_at_every_length() {
    let image = bzimage();
    let directory = tempdir().unwrap();
    let file = directory.path().join("kernel");
    fs::write(&file, &image).unwrap();
    // The value that its code writes to the debug-exit port.
    finish(&mut run(&file)).expect_status(11);
    // The last paragraph may be cut: some build tools drop its padding.
    check_truncations(&image, (1..=image.len() - 16).step_by(41).chain([image.len() - 16]));
}

#[test]
fn corrupt_headers_give_a_plan_or_one_line() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("kernel");
    let mut noise = Noise(2);
    let (elf, bzimage) = (fs::read(payload::path("hello")).unwrap(), bzimage());
    for round in 0..300 {
        let (mut image, header) = if round % 2 == 0 { (elf.clone(), 0..256) } else { (bzimage.clone(), 0x1F1..0x270) };
        for _ in 0..=noise.next(4) {
            let at = header.start + noise.next(header.len());
            image[at] = [0, 0xFF, 0x7F, noise.next(256) as u8][noise.next(4)];
        }
        fs::write(&file, &image).unwrap();
        let outcome = finish(run(&file).arg("--dry-run"));
        if outcome.status != 0 {
            complaint(outcome, 2);
        }
    }
}

#[test]
fn a_kernel_that_shrinks_while_it_is_loaded_is_one_line() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("kernel");
    let image = fs::read(payload::path("hello")).unwrap();
    fs::write(&file, &image).unwrap();
    // Between reading the headers and loading, carpel makes the socket and then opens the console, which waits for a reader.
    let fifo = directory.path().join("console");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let socket = directory.path().join("vsock");
    let [console, vsock] = [format!("file={}", fifo.display()), format!("uds={}", socket.display())];
    let guest = Running::start(run(&file).args(["--console", &console, "--vsock", &vsock]));
    while !socket.exists() {
        std::thread::yield_now();
    }
    fs::File::options().write(true).open(&file).unwrap().set_len(100).unwrap();
    // A run that has ended too early fails the test, and does not hold it up.
    let _reader = fs::File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&fifo).unwrap();
    expect_parts(&complaint(guest.finish(), 125), &["Cannot load the kernel"]);
}

#[test]
fn firmware_that_does_not_fit_is_told_with_sizes() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("firmware");
    fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
    let line = refusal(carpel(&["run", "--firmware"]).arg(&file), 2);
    expect_parts(&line, &["`firmware_image` of 64 MiB is larger than `firmware`, which has 16 MiB"]);
}

/// `carpel run` with this kernel.
fn run(kernel: &Path) -> Command {
    under(&["env"], &carpel(&["run".as_ref(), "-k".as_ref(), kernel.as_os_str()]))
}

fn check_truncations(image: &[u8], lengths: impl Iterator<Item = usize>) {
    let directory = tempdir().unwrap();
    let file = directory.path().join("kernel");
    for length in lengths {
        fs::write(&file, &image[..length]).unwrap();
        let line = refusal(&mut run(&file), 2);
        expect_parts(&line, &[file.to_str().unwrap()]);
        if line.contains("truncated") {
            expect_parts(&line, &[&format!("has {length} bytes and needs ")]);
        } else {
            // Without its signature, nothing tells what it was.
            assert!(length < 0x206 && line.contains("It is neither a bzImage"), "{length}: {line}");
        }
    }
}

/// Where the last byte that is loaded ends in an ELF file.
fn loaded_end(image: &[u8]) -> usize {
    let u64_at = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize;
    let (table, count) = (u64_at(32), usize::from(image[56]));
    let loads = (0..count).map(|index| table + index * 56).filter(|&at| image[at] == 1);
    loads.map(|at| u64_at(at + 8) + u64_at(at + 32)).max().unwrap()
}

/// A bzImage of protocol 2.15 with one setup sector and a page of code that writes 5 to the debug-exit port. Field offsets:
/// Linux, Documentation/arch/x86/boot.rst.
pub fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024 + 4096];
    for (at, bytes) in [
        (0x1F1, &[1][..]),
        (0x1F4, &(4096_u32 / 16).to_le_bytes()),
        (0x1FE, &[0x55, 0xAA, 0xEB, 0x6A]),
        (0x202, b"HdrS"),
        (0x206, &0x020F_u16.to_le_bytes()),
        (0x211, &[1]),
        (0x22C, &0x7FFF_FFFF_u32.to_le_bytes()),
        (0x230, &0x20_0000_u32.to_le_bytes()),
        (0x236, &[3]),
        (0x238, &2047_u32.to_le_bytes()),
        (0x258, &0x100_0000_u64.to_le_bytes()),
        (0x260, &0x20_0000_u32.to_le_bytes()),
        // mov al, 5; out 0xF4, al; hlt
        (1024 + 0x200, &[0xB0, 0x05, 0xE6, 0xF4, 0xF4]),
    ] {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image
}
