//! carpel: a microVM monitor for Linux on KVM.

#![forbid(unsafe_code)]

mod cli;
mod config;
mod config_file;
mod cpus;
mod devices;
mod doctor;
mod dry_run;
mod map;
mod output;
mod report;
mod run;

use std::panic;
use std::process::{self, ExitCode};

use clap::Parser as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        // One line, like any other failure, and never a guest left running by the other threads.
        let message = match info.payload_as_str() {
            // How the standard library says that a new thread has no memory for its signals' stack.
            Some(reason) if reason.contains("alternative stack") => format!("Cannot start a thread: {reason}"),
            // A bug of ours.
            _ => format!("Internal error: {info}").replace('\n', " "),
        };
        output::complain(message);
        process::exit(cli::FAILURE.into());
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::report_usage(&error),
    };
    cli::start_logging(cli.verbose);
    let text = match cli.command {
        Command::Run(args) => return run::run(&args),
        Command::Doctor => return doctor::run(),
        Command::Map(args) => map::text(&args),
        Command::Devices => Ok(devices::list()),
    };
    let (error, status) = match text.map(|text| output::print(&text)) {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => (error, cli::FAILURE),
        Err(error) => {
            let status = run::early_status(&error);
            (error, status)
        }
    };
    output::complain(error);
    ExitCode::from(status)
}
