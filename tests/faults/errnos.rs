//! What system calls fail with, by the section ERRORS of their pages in section 2 of the manual (man-pages 6), and by the
//! documentation of KVM's API for its requests.

use nix::errno::Errno::{self, *};
use nix::libc;

/// For memory that the kernel takes for what a descriptor stands for.
const NEW_DESCRIPTOR: &[Errno] = &[EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM];
const READING: &[Errno] = &[EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, EISDIR, ENXIO, EOVERFLOW, ESPIPE];
const STATUS: &[Errno] = &[EACCES, EBADF, EFAULT, EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR];

/// Every call of a start, with its errors.
#[rustfmt::skip]
const ERRNOS: &[(i64, &[Errno])] = &[
    (libc::SYS_bind, &[EACCES, EADDRINUSE, EBADF, EINVAL, ENOTSOCK, EADDRNOTAVAIL, EFAULT, ELOOP, ENAMETOOLONG,
        ENOENT, ENOMEM, ENOTDIR, EROFS]),
    (libc::SYS_brk, &[ENOMEM]),
    (libc::SYS_clone3, &[EACCES, EAGAIN, EBUSY, EEXIST, EINVAL, ENOMEM, ENOSPC, EOPNOTSUPP, EPERM, EUSERS]),
    (libc::SYS_close, &[EBADF, EINTR, EIO, ENOSPC, EDQUOT]),
    (libc::SYS_epoll_create1, &[EINVAL, EMFILE, ENFILE, ENOMEM]),
    (libc::SYS_epoll_ctl, &[EBADF, EEXIST, EINVAL, ELOOP, ENOENT, ENOMEM, ENOSPC, EPERM]),
    (libc::SYS_epoll_wait, &[EBADF, EFAULT, EINTR, EINVAL]),
    (libc::SYS_eventfd2, NEW_DESCRIPTOR),
    (libc::SYS_fcntl, &[EACCES, EAGAIN, EBADF, EINVAL, EMFILE, EPERM]),
    (libc::SYS_flock, &[EBADF, EINTR, EINVAL, ENOLCK, EAGAIN]),
    (libc::SYS_ftruncate, &[EINTR, EINVAL, EFBIG, EIO, EPERM, EBADF]),
    (libc::SYS_getrandom, &[EAGAIN, EFAULT, EINTR, EINVAL, ENOSYS]),
    (libc::SYS_io_uring_setup, &[EFAULT, EINVAL, EMFILE, ENFILE, ENOMEM, EPERM]),
    (libc::SYS_listen, &[EADDRINUSE, EBADF, ENOTSOCK, EOPNOTSUPP]),
    (libc::SYS_lseek, &[EBADF, EINVAL, ENXIO, EOVERFLOW, ESPIPE]),
    (libc::SYS_madvise, &[EACCES, EAGAIN, EBADF, EINVAL, EIO, ENOMEM, EPERM]),
    (libc::SYS_mmap, &[EACCES, EAGAIN, EBADF, EEXIST, EINVAL, ENFILE, ENODEV, ENOMEM, EOVERFLOW, EPERM, ETXTBSY]),
    (libc::SYS_mprotect, &[EACCES, EINVAL, ENOMEM]),
    (libc::SYS_munmap, &[EINVAL, ENOMEM]),
    (libc::SYS_openat, &[EACCES, EBADF, EBUSY, EDQUOT, EEXIST, EFAULT, EFBIG, EINTR, EINVAL, EISDIR, ELOOP, EMFILE,
        ENAMETOOLONG, ENFILE, ENODEV, ENOENT, ENOMEM, ENOSPC, ENOTDIR, ENXIO, EOPNOTSUPP, EOVERFLOW, EPERM, EROFS,
        ETXTBSY, EAGAIN]),
    (libc::SYS_poll, &[EFAULT, EINTR, EINVAL, ENOMEM]),
    (libc::SYS_prctl, &[EACCES, EBADF, EBUSY, EFAULT, EINVAL, ENODEV, ENXIO, EOPNOTSUPP, EPERM]),
    (libc::SYS_pread64, READING),
    (libc::SYS_prlimit64, &[EFAULT, EINVAL, EPERM, ESRCH]),
    (libc::SYS_read, READING),
    (libc::SYS_rt_sigaction, &[EFAULT, EINVAL]),
    (libc::SYS_rt_sigprocmask, &[EFAULT, EINVAL]),
    (libc::SYS_signalfd4, &[EBADF, EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM]),
    (libc::SYS_sigaltstack, &[EFAULT, EINVAL, ENOMEM, EPERM]),
    (libc::SYS_socket, &[EACCES, EAFNOSUPPORT, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTONOSUPPORT]),
    (libc::SYS_statx, STATUS),
    (libc::SYS_timerfd_create, &[EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM, EPERM]),
    (libc::SYS_timerfd_settime, &[EBADF, EFAULT, ECANCELED, EINVAL]),
    (libc::SYS_write, &[EAGAIN, EBADF, EDESTADDRREQ, EDQUOT, EFAULT, EFBIG, EINTR, EINVAL, EIO, ENOSPC, EPERM, EPIPE]),
    (libc::SYS_sched_yield, &[]),
    (libc::SYS_gettid, &[]),
    (libc::SYS_sched_getaffinity, &[EFAULT, EINVAL, EPERM, ESRCH]),
    (libc::SYS_set_robust_list, &[EINVAL]),
    (libc::SYS_rseq, &[EINVAL, EFAULT, ENOSYS, EPERM]),
];

/// Requests of ioctl(2), whose page has four errors; KVM adds its own (Documentation/virt/kvm/api.rst).
const REQUEST: &[Errno] = &[EBADF, EFAULT, EINVAL, ENOTTY];
const KVM: &[Errno] = &[EBADF, EFAULT, EINVAL, ENOTTY, EINTR, ENOMEM, ENXIO, EEXIST, E2BIG, ENOSPC];
const RUN: &[Errno] = &[EBADF, EFAULT, EINVAL, EINTR, EAGAIN, ENOMEM, ENOEXEC, ENOSYS, EPERM];
/// The type of KVM's requests (include/uapi/linux/kvm.h).
const KVMIO: u64 = 0xAE;

/// What this call may fail with; none if nobody wrote that down.
pub fn of(number: i64, request: u64) -> Option<&'static [Errno]> {
    if number == libc::SYS_ioctl {
        return Some(match request {
            crate::tracer::KVM_RUN => RUN,
            request if request >> 8 & 0xFF == KVMIO => KVM,
            _ => REQUEST,
        });
    }
    if number == libc::SYS_futex {
        // Others than those that wait fail only for what they are called with.
        let waits = [libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET].contains(&(request as i32));
        return Some(if waits { &[EAGAIN, EINTR] } else { &[] });
    }
    ERRNOS.iter().find(|(known, _)| *known == number).map(|(_, errnos)| *errnos)
}
