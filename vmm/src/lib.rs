//! The machine: what a configuration asks for becomes a plan, the plan a machine, and the machine runs to an outcome.
//!
//! `Config -> Plan -> Machine -> run`: the plan is made of values, which `probe` has got of files and host; it touches neither.

pub mod allocator;
pub mod boot;
pub mod config;
pub mod console;
pub mod dump;
mod dump_request;
pub mod end;
pub mod error;
mod events;
pub mod exit;
mod input;
pub mod kvm;
pub mod loader;
pub mod machine;
pub mod memory;
pub mod outcome;
pub mod parent;
pub mod plan;
pub mod platform;
pub mod probe;
pub mod run;
pub mod signals;
pub mod terminal;
pub mod threads;
pub mod virtio;
pub mod watch;
