//! A file system of one file whose server stops answering, as that of a network file system does: a server of the kernel's FUSE
//! protocol (include/uapi/linux/fuse.h, version 7.31).

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use tempfile::TempDir;

/// The file's name in the mounted directory.
const NAME: &str = "file";
const ROOT: u64 = 1;
const FILE: u64 = 2;
/// Version of the protocol.
const VERSION: (u32, u32) = (7, 31);
/// Sizes in bytes: of a request's header, and of the largest request.
const HEADER: usize = 40;
const LARGEST: usize = 1 << 18;
const INTERRUPT: u32 = 36;
const ENOENT: i32 = 2;
const EINTR: i32 = 4;
const ENOSYS: i32 = 38;
/// Of the reply to OPEN: reads and writes go to the server, not to the page cache.
const DIRECT_IO: u32 = 1;
/// Of the reply to OPEN: closing the file asks nothing. Before Linux 6.2 nobody, killed or not, ends before that is answered.
const NO_FLUSH: u32 = 1 << 5;

/// What the server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read = 15,
    Write = 16,
    Sync = 20,
}

/// When requests are answered no more.
#[derive(Clone, Copy, Debug)]
pub struct Hang {
    pub operation: Operation,
    /// So many of them are answered.
    pub after: usize,
    pub manner: Manner,
}

/// How the server hangs. A request that it took and neither answers nor lets be interrupted is not among these: Linux lets nobody leave
/// that, not even by SIGKILL (`request_wait_answer` in fs/fuse/dev.c), before the server answers or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It takes no more requests of any kind once the operation came so often.
    Stopped,
    /// It takes the operation and answers only that it was interrupted.
    Interruptible,
}

/// A mounted file system, in this thread's mount namespace and those of its children.
pub struct HangingFs {
    directory: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    hang: Mutex<Hang>,
    waits: Condvar,
    hung: Mutex<usize>,
    contents: Mutex<Vec<u8>>,
    open_flags: u32,
}

impl HangingFs {
    /// Mounts it with a file of these contents. With `direct`, the host's page cache is out of the way.
    pub fn mount(contents: Vec<u8>, direct: bool, hang: Hang) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("There are mount namespaces");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("Mounts can be private");
        let directory = tempfile::tempdir().unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("This test needs /dev/fuse");
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        mount(Some("hanging"), directory.path(), Some("fuse"), MsFlags::empty(), Some(options.as_str()))
            .expect("FUSE can be mounted");
        let shared = Arc::new(Shared {
            hang: Mutex::new(hang),
            waits: Condvar::new(),
            hung: Mutex::new(0),
            contents: Mutex::new(contents),
            open_flags: if direct { DIRECT_IO | NO_FLUSH } else { NO_FLUSH },
        });
        let server = Arc::clone(&shared);
        // Ends with the mount, which ends with the namespace.
        thread::spawn(move || serve(device, &server));
        Self { directory, shared }
    }

    pub fn file(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    /// Changes when it hangs.
    pub fn hang(&self, hang: Hang) {
        *self.shared.hang.lock().unwrap() = hang;
    }

    /// Waits until somebody waits for an answer that does not come.
    #[track_caller]
    pub fn wait_until_hung(&self) {
        let hung = self.shared.hung.lock().unwrap();
        let wait = self.shared.waits.wait_timeout_while(hung, Duration::from_secs(30), |hung| *hung == 0).unwrap();
        assert!(!wait.1.timed_out(), "Nobody waits for the server");
    }
}

impl Drop for HangingFs {
    fn drop(&mut self) {
        // Before the directory is removed, which would ask the server.
        umount2(self.directory.path(), MntFlags::MNT_DETACH).expect("It is mounted");
    }
}

/// Runs a test of this program in a user namespace where it may mount, unless it may already; returns whether the caller is to go on.
pub fn may_mount(test: &str) -> bool {
    if Uid::effective().is_root() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let status = Command::new("unshare").arg("-rm").arg(program).args(["--exact", test, "--nocapture"]).status();
    assert!(status.unwrap().success(), "{test} in a user namespace");
    false
}

fn serve(mut device: File, shared: &Shared) {
    let mut request = vec![0; LARGEST];
    loop {
        let length = match device.read(&mut request) {
            Ok(length) => length,
            // A request that was interrupted before it was read.
            Err(error) if matches!(error.raw_os_error(), Some(2 | 4)) => continue,
            Err(_) => return,
        };
        let request = &request[..length];
        let (opcode, unique) = (u32_at(request, 4), u64_at(request, 8));
        let hangs = shared.hangs(opcode);
        match hangs {
            Some(Manner::Interruptible) => {
                shared.note_hung();
                continue;
            }
            None if opcode == INTERRUPT => {
                reply(&mut device, u64_at(request, HEADER), EINTR, &[]);
                continue;
            }
            _ => {}
        }
        if let Some((error, body)) = answer(request, shared) {
            reply(&mut device, unique, error, &body);
        }
        if hangs == Some(Manner::Stopped) {
            let mut polled = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
            poll(&mut polled, PollTimeout::NONE).unwrap();
            shared.note_hung();
            // Until the mount is gone.
            while poll(&mut [PollFd::new(device.as_fd(), PollFlags::empty())], PollTimeout::NONE).is_err() {}
            return;
        }
    }
}

fn reply(device: &mut File, unique: u64, error: i32, body: &[u8]) {
    let mut reply = Vec::with_capacity(16 + body.len());
    reply.extend((16 + body.len() as u32).to_le_bytes());
    reply.extend((-error).to_le_bytes());
    reply.extend(unique.to_le_bytes());
    reply.extend(body);
    // Who asked may be gone.
    let _ = device.write_all(&reply);
}

/// The error number and the reply's body; none where there is no answer.
fn answer(request: &[u8], shared: &Shared) -> Option<(i32, Vec<u8>)> {
    let (opcode, node, body) = (u32_at(request, 4), u64_at(request, 16), &request[HEADER..]);
    let mut contents = shared.contents.lock().unwrap();
    let size = contents.len() as u64;
    Some(match opcode {
        // FORGET, BATCH_FORGET
        2 | 42 => return None,
        // LOOKUP
        1 if node == ROOT && body.strip_suffix(b"\0") == Some(NAME.as_bytes()) => {
            let entry = [FILE, 0, 1, 1, 0].map(u64::to_le_bytes).concat();
            (0, [entry, attributes(FILE, size)].concat())
        }
        1 => (ENOENT, Vec::new()),
        // GETATTR, SETATTR
        3 | 4 => (0, [[1_u64, 0].map(u64::to_le_bytes).concat(), attributes(node, size)].concat()),
        // OPEN, OPENDIR
        14 | 27 => (0, [0, 0, shared.open_flags, 0].map(u32::to_le_bytes).concat()),
        // READ
        15 => {
            let (offset, length) = (u64_at(body, 8) as usize, u32_at(body, 16) as usize);
            let bytes = contents.get(offset..).unwrap_or_default();
            (0, bytes[..length.min(bytes.len())].to_vec())
        }
        // WRITE
        16 => {
            let (offset, length) = (u64_at(body, 8) as usize, u32_at(body, 16) as usize);
            let end = contents.len().max(offset + length);
            contents.resize(end, 0);
            contents[offset..offset + length].copy_from_slice(&body[40..40 + length]);
            (0, [length as u32, 0].map(u32::to_le_bytes).concat())
        }
        // RELEASE, FSYNC, FLUSH, RELEASEDIR
        18 | 20 | 25 | 29 => (0, Vec::new()),
        // INIT: no flags, 16 pages at a time
        26 => {
            let start = [VERSION.0, VERSION.1, 0, 0].map(u32::to_le_bytes).concat();
            let limits = [12 << 16 | 16, 64 << 10, 1, 0].map(u32::to_le_bytes).concat();
            (0, [start, limits, vec![0; 32]].concat())
        }
        _ => (ENOSYS, Vec::new()),
    })
}

/// `struct fuse_attr` of 88 bytes.
fn attributes(node: u64, size: u64) -> Vec<u8> {
    let mode: u32 = if node == ROOT { 0o40_755 } else { 0o100_666 };
    let long = [node, size, size.div_ceil(512), 0, 0, 0].map(u64::to_le_bytes).concat();
    let short = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_le_bytes).concat();
    [long, short].concat()
}

impl Shared {
    /// Whether this request is one that the server hangs at, and how.
    fn hangs(&self, opcode: u32) -> Option<Manner> {
        let mut hang = self.hang.lock().unwrap();
        if hang.operation as u32 != opcode {
            return None;
        }
        // Who stops does so behind the last answer.
        let last = usize::from(hang.manner == Manner::Stopped);
        let hangs = hang.after <= last;
        hang.after = hang.after.saturating_sub(1);
        hangs.then_some(hang.manner)
    }

    fn note_hung(&self) {
        *self.hung.lock().unwrap() += 1;
        self.waits.notify_all();
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A pipe in which there is no room left.
pub fn full_pipe() -> (io::PipeReader, io::PipeWriter) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (reader, mut writer) = io::pipe().unwrap();
    let set = |flags| fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    set(OFlag::O_NONBLOCK);
    while writer.write(&[b'x'; 4096]).is_ok() {}
    let set = |flags| fcntl(&writer, FcntlArg::F_SETFL(flags)).unwrap();
    set(OFlag::empty());
    (reader, writer)
}
