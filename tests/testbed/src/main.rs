//! The commands behind `cargo demo`, `cargo verify` and `cargo bench-vm`.

use std::path::PathBuf;
use std::process::ExitCode;

use carpel_testbed::bench::{self, Part};
use carpel_testbed::demo;
use carpel_testbed::host::Origin;
use carpel_testbed::hosts;
use carpel_testbed::verify::{self, Wanted};
use clap::Parser;

#[derive(Parser)]
#[command(about = "Shows and verifies carpel on hosts that can run guests")]
enum Cli {
    /// Boot the distribution's stock kernel under carpel and type into its shell
    Demo {
        /// The emulated x86-64 host's QEMU: this machine's own, which is used without this, or a newer one of its release's backports
        #[arg(long)]
        qemu: Option<Origin>,
        /// Use carpel, kernel and initrd that an earlier run left in DIR
        #[arg(long, value_name = "DIR")]
        prepared: Option<PathBuf>,
        /// Show the host's own console too
        #[arg(short, long)]
        verbose: bool,
    },
    /// Run every check: formatting, clippy, tests, documentation, boots
    Verify {
        /// Boot the stock kernel in every combination of machines, not only in those that cover every pair
        #[arg(long)]
        full: bool,
        /// Only the boot tests whose names contain TEXT
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// The emulated x86-64 host's QEMU: this machine's own, which is used without this, or a newer one of its release's backports
        #[arg(long)]
        qemu: Option<Origin>,
        /// Show all that hosts and guests print
        #[arg(short, long)]
        verbose: bool,
    },
    /// Count how many boots of each kind of emulated host are lost, and print the table of docs/testing.md
    Hosts {
        /// How often each kind is booted
        #[arg(long, default_value_t = 20, value_name = "N")]
        boots: usize,
    },
    /// Measure carpel against the floor and its peers, and print the tables of docs/performance.md
    Bench {
        /// Only this part
        #[arg(long)]
        only: Option<Part>,
        /// How often each monitor starts a test guest
        #[arg(long, default_value_t = 40, value_name = "N")]
        runs: usize,
        /// An earlier build of carpel to compare with, where a table has a place for it
        #[arg(long, value_name = "FILE")]
        before: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse() {
        Cli::Demo { qemu, prepared, verbose } => demo::run(&demo::Wanted { qemu, prepared, verbose }),
        Cli::Hosts { boots } => hosts::run(boots),
        Cli::Bench { only, runs, before } => bench::run(&bench::Wanted { only, runs, before }),
        Cli::Verify { full, only, qemu, verbose } => verify::run(&Wanted { full, only, qemu, verbose }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("testbed: {err:#}");
            ExitCode::FAILURE
        }
    }
}
