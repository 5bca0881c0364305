//! What `carpel` makes of wrong arguments, wrong files and a host that gives it less than it wants: one line on stderr, the
//! exit status of the contract, and nothing left behind.

#![cfg(target_arch = "x86_64")]

mod arguments;
mod carpel;
mod devices;
mod files;
#[expect(dead_code, reason = "the tests of payloads use all of it, these do not")]
#[path = "../payload/guest.rs"]
mod guest;
mod host;
mod kernels;
mod reports;
mod resources;
mod signals;
mod streams;
mod terminal;
mod words;
