//! What `carpel` makes of a host that fails it: threads, stacks and memory that cannot be had, files whose server is gone, and every
//! system call of its start refused.

#![cfg(target_arch = "x86_64")]

mod calls;
#[expect(dead_code, reason = "other tests use all of it, these do not")]
#[path = "../cli/carpel.rs"]
mod carpel;
mod errnos;
mod fuse;
#[expect(dead_code, reason = "other tests use all of it, these do not")]
#[path = "../payload/guest.rs"]
mod guest;
mod hanging;
mod ignored;
mod limits;
mod tracer;
