//! What `carpel` makes of wrong arguments, wrong files and a host that gives it less than it wants: one line on stderr, the
//! exit status of the contract, and nothing left behind.

#![cfg(target_arch = "x86_64")]

mod arguments;
mod carpel;
mod files;
// Shared with the tests of payloads, which use all of it.
#[allow(dead_code)]
#[path = "../payload/guest.rs"]
mod guest;
mod host;
mod resources;
mod signals;
mod streams;
