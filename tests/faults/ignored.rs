//! Failures that a run rightly goes on after, each with the reason. What is not here must end it.

use nix::errno::Errno::{self, *};
use nix::libc;

use crate::tracer::{Fault, KVM_RUN};

/// Which errors.
enum Which {
    Any,
    These(&'static [Errno]),
}
use Which::{Any, These};

/// A system call, its request or the file where that matters, its errors, and why the run goes on.
type Rule = (i64, Where, Which, &'static str);

/// Which calls of a number.
enum Where {
    Everywhere,
    /// Those of this request.
    Request(u64),
    /// Those about a file whose name ends so.
    File(&'static str),
}
use Where::{Everywhere, File, Request};

/// `KVM_CHECK_EXTENSION` (include/uapi/linux/kvm.h).
const CHECK_EXTENSION: u64 = 0xAE03;
/// Asks for the settings of a terminal (include/uapi/asm-generic/ioctls.h).
const TCGETS: u64 = 0x5401;
/// How the kernel calls these files, and where `tests/faults/calls.rs` has temporary ones.
const EVENTFD: &str = "[eventfd]";
const RING: &str = "[io_uring]";
const STDIN: &str = "/dev/null";

const RULES: &[Rule] = &[
    // Made by the C library and the standard library for every thread.
    (
        libc::SYS_rt_sigaction,
        Everywhere,
        Any,
        "the C library's handler for setuid in all threads, which carpel never calls",
    ),
    (libc::SYS_rt_sigprocmask, Everywhere, Any, "it fails for wrong arguments only, and these never vary"),
    (libc::SYS_sigaltstack, Everywhere, Any, "the stack on which an overflow of another would be told"),
    (libc::SYS_set_robust_list, Everywhere, Any, "for locks shared by processes, of which there are none"),
    (libc::SYS_prctl, Everywhere, Any, "a thread's name is for people"),
    (libc::SYS_sched_getaffinity, Everywhere, Any, "asked by the C library beside the thread's stack, and not used"),
    (libc::SYS_getrandom, Everywhere, These(&[EINTR, EINVAL, ENOSYS]), "asked again, or asked of /dev/urandom"),
    (libc::SYS_futex, Everywhere, Any, "whoever waits looks again at what it waits for"),
    // What can be done in another way, or need not be done.
    (libc::SYS_brk, Everywhere, Any, "memory is mapped instead"),
    (libc::SYS_madvise, Everywhere, Any, "advice on huge pages costs speed at most"),
    (libc::SYS_io_uring_setup, Everywhere, Any, "a disk gets threads where there is no ring"),
    (libc::SYS_prlimit64, Everywhere, Any, "a stack whose limit is unknown is taken as large enough"),
    (libc::SYS_flock, Everywhere, Any, "some file systems have no locks; of a disk it is told"),
    (libc::SYS_ioctl, Request(TCGETS), Any, "what has no settings of a terminal is none"),
    (libc::SYS_ioctl, Request(CHECK_EXTENSION), Any, "an error says that KVM has no such thing"),
    (libc::SYS_mmap, File(RING), Any, "a disk gets threads where there is no ring"),
    (libc::SYS_openat, File("run.json"), These(&[EEXIST]), "a report that is there already is opened as it is"),
    (
        libc::SYS_openat,
        File("tmp"),
        These(&[EISDIR, ENOENT, EOPNOTSUPP]),
        "some file systems have no files without a name",
    ),
    (libc::SYS_statx, File("vsock"), Any, "binding the socket tells what is in its way"),
    (libc::SYS_statx, File("port"), Any, "binding the socket tells what is in its way"),
    (libc::SYS_pread64, File("disk"), Any, "only a warning depends on how a raw image begins"),
    (libc::SYS_read, File(STDIN), Any, "input that cannot be read has ended"),
    (libc::SYS_epoll_ctl, File(STDIN), These(&[EBADF, EPERM]), "what cannot be waited for is a file, or closed"),
    (libc::SYS_read, File(EVENTFD), Any, "who was woken has been woken"),
    (libc::SYS_write, File(EVENTFD), Any, "the guard looks by itself when something may be due"),
    (libc::SYS_ioctl, Request(KVM_RUN), Any, "the guest has ended before its second vCPU could tell"),
    // Interrupted for nothing, and done again.
    (libc::SYS_read, Everywhere, These(&[EINTR]), "read again"),
    (libc::SYS_pread64, Everywhere, These(&[EINTR]), "read again"),
    (libc::SYS_openat, Everywhere, These(&[EINTR]), "opened again"),
    (libc::SYS_ftruncate, Everywhere, These(&[EINTR]), "cut again"),
    (libc::SYS_ioctl, Everywhere, These(&[EINTR, EAGAIN]), "asked again"),
    (libc::SYS_epoll_wait, Everywhere, Any, "a worker looks again"),
    (libc::SYS_poll, Everywhere, Any, "looked again, or as if nothing was ready"),
];

/// Why the failure changes nothing; none if it must end the run.
pub fn reason(fault: &Fault) -> Option<&'static str> {
    let applies = |(number, place, which, _): &&Rule| {
        let is_there = match place {
            Everywhere => true,
            Request(request) => *request == fault.call.request,
            File(end) => fault.file.ends_with(end),
        };
        let is_that = match which {
            Any => true,
            These(errnos) => errnos.contains(&Errno::from_raw(fault.errno)),
        };
        *number == fault.call.number && is_there && is_that
    };
    RULES.iter().find(applies).map(|(.., reason)| *reason)
}

/// Calls that are not made to fail, since what follows is no doing of carpel's.
pub const SPARED: &[(i64, &str)] =
    &[(libc::SYS_rseq, "the C library ends the process where a thread cannot have what the first one got")];
