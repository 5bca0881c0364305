//! carpel: a microVM monitor for Linux on KVM.

#![forbid(unsafe_code)]

mod cli;
mod config;
mod config_file;
mod devices;
mod doctor;
mod dry_run;
mod log_limit;
mod map;
mod output;
mod report;
mod run;
mod scan;
mod usage;
mod values;
mod words;

use std::process::ExitCode;
use std::{env, panic};

use carpel_vmm::allocator::Allocator;
use carpel_vmm::{end, terminal};
use nix::sys::resource::{Resource, getrlimit};

use crate::cli::Command;
use crate::usage::Stop;

/// What the main thread may need of its stack, in bytes: twice what it was seen to need without optimization.
const STACK: u64 = 512 << 10;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    match getrlimit(Resource::RLIMIT_STACK) {
        // It would end in the middle of anything, and by a signal.
        Ok((limit, _)) if limit < STACK => {
            let (limit, needed) = (limit >> 10, STACK >> 10);
            output::tell(format_args!("A stack of {limit} KiB is too small: raise the limit (`ulimit -s {needed}`)"));
            ExitCode::from(cli::FAILURE)
        }
        _ => run_command(),
    }
}

/// Apart from `main`, which is to fit into any stack.
#[inline(never)]
fn run_command() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        terminal::restore();
        // One line, like any other failure, and never a guest left running by the other threads.
        end::tell_alone(cli::FAILURE);
        let message = match info.payload_as_str() {
            // How the standard library says that a new thread has no memory for its signals' stack, ...
            Some(reason) if reason.contains("alternative stack") => format!("Cannot start a thread: {reason}"),
            // ... and that the host gives no seed for a hash table.
            Some(reason) if reason.contains("random data") => format!("The host gives no random numbers: {reason}"),
            // A bug of ours.
            _ => format!("Internal error: {info}").replace('\n', " "),
        };
        output::complain(message);
        end::leave(cli::FAILURE);
    }));
    let args: Vec<_> = env::args_os().collect();
    let cli = match usage::parse(&args) {
        Ok(cli) => cli,
        Err(stop) => {
            if matches!(stop, Stop::Wrong { .. }) {
                report::remove_earlier(usage::named_reports(&args));
            }
            return stop.tell();
        }
    };
    cli::start_logging(cli.verbose);
    let text = match cli.command {
        Command::Run(args) => {
            let status = run::run(&args);
            // Lines that a guest caused beyond the limit are told of.
            log::logger().flush();
            return status;
        }
        Command::Doctor => return doctor::run(),
        Command::Map(args) => map::text(&args),
        Command::Devices => Ok(devices::list()),
        // Parsing has answered these two itself.
        Command::Help { .. } | Command::Version => return ExitCode::SUCCESS,
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
