//! carpel: a microVM monitor for Linux on KVM.

#![forbid(unsafe_code)]

mod cli;
mod map;
mod units;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::report_usage(&error),
    };
    cli::start_logging(cli.verbose);
    let result = match cli.command {
        Command::Map(args) => map::run(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("carpel: {error:#}");
        ExitCode::from(cli::USAGE_ERROR)
    })
}
