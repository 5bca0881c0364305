//! The machine: what a configuration asks for becomes a plan, the plan a machine, and the machine runs to an outcome.
//!
//! `Config -> Plan -> Machine -> run`: up to the plan nothing touches KVM.

pub mod loader;
pub mod config;
pub mod exit;
pub mod memory;
pub mod outcome;
pub mod plan;
pub mod watch;
pub mod kvm;
