//! Threads, which a host may refuse.

use std::io;
use std::thread::{Builder, JoinHandle};

/// The stack of a thread in bytes, as the standard library would have it: of the process's address space, and of its memory what
/// is touched. Said here so that `RUST_MIN_STACK`, which may be too small for any thread, does not say it.
const STACK: usize = 2 << 20;

/// Starts a thread of this name. Fails where the host gives no more threads, or no memory for one.
pub fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name).stack_size(STACK).spawn(body)
}
