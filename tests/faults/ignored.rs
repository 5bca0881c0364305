//! Failures that a run rightly goes on after, each with the reason. What is not here must end it.

use nix::errno::Errno::{self, *};
use nix::libc;

use crate::tracer::Call;

/// Which errors.
enum Which {
    Any,
    These(&'static [Errno]),
}
use Which::{Any, These};

/// A system call, its request where that matters, its errors, and why the run goes on.
type Rule = (i64, Option<u64>, Which, &'static str);

/// `KVM_CHECK_EXTENSION` (include/uapi/linux/kvm.h).
const CHECK_EXTENSION: u64 = 0xAE03;

const RULES: &[Rule] = &[
    // Made by the C library and the standard library for every thread.
    (libc::SYS_rt_sigaction, None, Any, "the C library's handler for setuid in all threads, which carpel never calls"),
    (
        libc::SYS_rt_sigprocmask,
        None,
        Any,
        "the C library's, around a thread's start; carpel's own are noticed by threads that start then",
    ),
    (libc::SYS_sigaltstack, None, Any, "the stack on which an overflow of another would be told"),
    (libc::SYS_set_robust_list, None, Any, "for locks shared by processes, of which there are none"),
    (libc::SYS_prctl, None, Any, "a thread's name is for people"),
    (libc::SYS_sched_getaffinity, None, Any, "asked by the C library beside the thread's stack, and not used"),
    (libc::SYS_getrandom, None, These(&[EINTR, EINVAL, ENOSYS]), "asked again, or asked of /dev/urandom"),
    (libc::SYS_futex, None, Any, "whoever waits looks again at what it waits for"),
    // What can be done in another way, or need not be done.
    (libc::SYS_brk, None, Any, "memory is mapped instead"),
    (libc::SYS_madvise, None, Any, "advice on huge pages costs speed at most"),
    (libc::SYS_io_uring_setup, None, Any, "a disk gets threads where there is no ring"),
    (libc::SYS_prlimit64, None, Any, "a stack whose limit is unknown is taken as large enough"),
    (libc::SYS_flock, None, Any, "some file systems have no locks; of a disk it is told"),
    (libc::SYS_ioctl, Some(0x5401), Any, "what has no settings of a terminal is none"),
    (libc::SYS_ioctl, Some(CHECK_EXTENSION), Any, "an error says that KVM has no such thing"),
    // Interrupted for nothing, and done again.
    (libc::SYS_read, None, These(&[EINTR]), "read again"),
    (libc::SYS_pread64, None, These(&[EINTR]), "read again"),
    (libc::SYS_openat, None, These(&[EINTR]), "opened again"),
    (libc::SYS_ftruncate, None, These(&[EINTR]), "cut again"),
    (libc::SYS_ioctl, None, These(&[EINTR, EAGAIN]), "asked again"),
    (libc::SYS_epoll_wait, None, Any, "a worker looks again"),
    (libc::SYS_poll, None, Any, "looked again, or as if nothing was ready"),
];

/// Why the failure changes nothing; none if it must end the run.
pub fn reason(call: &Call, errno: i32) -> Option<&'static str> {
    let applies = |(number, request, which, _): &&Rule| {
        *number == call.number
            && request.is_none_or(|request| request == call.request)
            && match which {
                Any => true,
                These(errnos) => errnos.contains(&Errno::from_raw(errno)),
            }
    };
    RULES.iter().find(applies).map(|(.., reason)| *reason)
}

/// Calls that are not made to fail, since what follows is no doing of carpel's.
pub const SPARED: &[(i64, &str)] =
    &[(libc::SYS_rseq, "the C library ends the process where a thread cannot have what the first one got")];
