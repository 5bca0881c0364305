//! The command line, as arguments only: nothing here opens a file or a device.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use carpel_arch::Topology;
use carpel_arch::map::{Arch, Boot, ShmRequest};
use carpel_devices::diagnostics::Diagnostics;
use carpel_devices::units;
use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::log_limit::Limited;
use crate::map::Format;
use crate::values;

/// Exit status when the command line or a file named on it is wrong.
pub const USAGE_ERROR: u8 = 2;
/// Exit status when the monitor failed; also for a wrong command line of a run with a command, whose own status 2 must
/// not be taken for it.
pub const FAILURE: u8 = 125;

const RUN_HELP: &str = "\
Examples:
  carpel run -k bzImage -i initrd
  carpel run -k bzImage -i initrd --until 'login:|# ' --timeout 60s

Exit status:
  0    the guest powered off or reset as asked, or --until matched
  2    the command line, or a file named on it, is wrong
  120  the guest kernel panicked
  121  the guest died: triple fault, or KVM could not go on
  122  the guest stopped responding
  123  --fail-on matched, or the guest ended before --until did
  124  --timeout ran out
  125  the monitor or the host failed
  130  Ctrl-A x; 129: --die-with-parent; 128+N: signal N
  (v << 1) | 1: the guest wrote v to the debug-exit port";

const HELP: &str = "\
Boot a kernel: carpel run -k bzImage -i initrd
More: carpel help run, carpel doctor";

/// A microVM monitor for Linux on KVM.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true, after_help = HELP)]
pub struct Cli {
    /// Log more, to stderr (twice: everything); RUST_LOG chooses what
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 1000)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest
    #[command(after_help = RUN_HELP)]
    Run(Box<RunArgs>),
    /// Print the guest physical map of a configuration
    Map(MapArgs),
    /// List the devices that --device can configure
    Devices,
    /// Check what this host can run
    Doctor,
    /// Print help, as --help does
    Help {
        /// A command to print the help of
        command: Option<OsString>,
    },
    /// Print the version, as --version does
    Version,
}

/// What `run` and `map` have in common.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// Kernel to boot; its format is recognised
    #[arg(short, long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Boot firmware, instead of a kernel or to start a bzImage
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// How to enter the kernel: linux, pvh or multiboot [default: the best that it offers]
    #[arg(long, value_name = "WAY", value_parser = values::boot)]
    pub boot: Option<Boot>,
    /// Initial RAM disk; for a Multiboot kernel, a module (may repeat)
    #[arg(short, long, visible_alias = "initramfs", value_name = "FILE")]
    pub initrd: Vec<PathBuf>,
    /// Guest memory, such as 512M, 4G or 1.5GiB, in powers of 1024 [default: 1G]
    #[arg(short, long, visible_alias = "memory", value_name = "SIZE", value_parser = values::memory)]
    // A negative number is a wrong value then, not an unknown option.
    #[arg(allow_negative_numbers = true)]
    pub mem: Option<u64>,
    /// Number of vCPUs, and their arrangement: 8, or 8,sockets=2,cores=2,threads=2 [default: 1]
    #[arg(short, long, value_name = "N", value_parser = values::cpus, allow_hyphen_values = true)]
    pub cpus: Option<Topology>,
    /// Guest physical map [default: the architecture's]
    #[arg(long, value_name = "NAME")]
    pub layout: Option<String>,
    /// GIC of an aarch64 guest: 2 or 3 [default: 3 where the host has it]
    #[arg(long, value_name = "VERSION", value_parser = values::gic)]
    pub gic: Option<u8>,
}

#[derive(Debug, Args)]
pub struct MapArgs {
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Architecture of the guest [default: this host's]
    #[arg(long, value_name = "ARCH", value_parser = values::architecture)]
    pub arch: Option<Arch>,
    /// Guest physical address bits [default: 46 on x86_64, 40 on aarch64 and riscv64]
    #[arg(long, value_name = "BITS", value_parser = values::phys_bits, allow_hyphen_values = true)]
    pub phys_bits: Option<u8>,
    /// Add a region of shared memory, as devices ask for: cache=1G (may repeat)
    #[arg(long, value_name = "NAME=SIZE", value_parser = values::shm, allow_hyphen_values = true)]
    pub shm: Vec<ShmRequest>,
    /// How to print it: text, json or markdown
    #[arg(long, value_enum, default_value = "text", hide_possible_values = true)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Configuration from a file; options named here win, lists are appended
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub guest: GuestArgs,
    #[command(flatten)]
    pub backing: BackingArgs,
    /// Processor: host, max or x86-64-v1 to x86-64-v4, then ,+FEATURE or ,-FEATURE as wanted
    #[arg(long, value_name = "MODEL", allow_hyphen_values = true)]
    pub cpu: Option<String>,
    /// Add to the kernel command line (may repeat)
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// The whole command line, instead of what Linux is told of its console and its end; --append adds to it
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Add a disk: FILE, then keys of `blk` in `carpel devices`, as in FILE,ro,id=X (may repeat)
    #[arg(long, value_name = "FILE")]
    pub disk: Vec<String>,
    /// Add a network interface: tap=NAME, then keys of `net` in `carpel devices` (may repeat)
    #[arg(long, value_name = "KIND")]
    pub net: Vec<String>,
    /// Connect the guest's vsock to a unix socket: cid=N,uds=PATH
    #[arg(long, value_name = "KEYS")]
    pub vsock: Option<String>,
    /// Add or configure any device of `carpel devices`: KIND[,key=value...] (may repeat)
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// How the kernel learns of virtio devices: tables, or cmdline where it has no ACPI [default: tables]
    #[arg(long, value_enum, value_name = "WAY", hide_possible_values = true)]
    pub announce: Option<Announcement>,
    /// Where the console goes: stdio (Ctrl-A x ends the guest), null, file=FILE, socket=FILE, pty [default: stdio]
    #[arg(long, value_name = "TARGET")]
    pub console: Option<String>,
    /// End the guest after this time (30s, 2m, 500ms, 1.5s), with status 124
    #[arg(long, value_name = "DURATION", value_parser = units::time_limit, allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
    /// End the guest when its console is silent for this time, with status 122
    #[arg(long, value_name = "DURATION", value_parser = units::time_limit, allow_hyphen_values = true)]
    pub watchdog: Option<Duration>,
    /// End the guest when a line of its console matches, with status 0
    #[arg(long, value_name = "REGEX", value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub until: Option<String>,
    /// End the guest when a line of its console matches, with status 123 (may repeat)
    #[arg(long, value_name = "REGEX", value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub fail_on: Vec<String>,
    /// End the guest when the process that started carpel ends, with status 129 [default: no]
    #[arg(long, value_name = "yes|no", num_args = 0..=1, require_equals = true, default_missing_value = "yes")]
    #[arg(value_parser = values::yes_or_no)]
    pub die_with_parent: Option<bool>,
    /// Write the run's facts to a file: JSON, or JUnit if its name ends in .xml; - is standard output (may repeat)
    #[arg(long, value_name = "FILE")]
    pub report: Vec<PathBuf>,
    /// Name of the test case in reports [default: the kernel's file name]
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub name: Option<String>,
    /// Print the guest's physical and virtual map to stderr when it has ended; SIGUSR1 prints them at once
    #[arg(long)]
    pub dump_map_on_exit: bool,
    /// Print the plan (map, command line, devices) and stop
    #[arg(long)]
    pub dry_run: bool,
    /// How --dry-run prints it: text, or json, which --config takes
    #[arg(long, value_enum, default_value = "text", requires = "dry_run", hide_possible_values = true)]
    pub format: PlanFormat,
    /// Run a command in the guest (not built yet)
    #[arg(last = true, value_name = "COMMAND", hide = true)]
    pub command: Vec<OsString>,
}

/// What the guest's memory is made of.
#[derive(Debug, Args)]
pub struct BackingArgs {
    /// Back the guest's memory by huge pages of the host's pool
    #[arg(long)]
    pub hugepages: bool,
    /// Back the guest's memory by a memfd, which other processes can map
    #[arg(long)]
    pub shared_memory: bool,
}

/// How a plan is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For reading
    Text,
    /// One JSON object with `config` and `plan`
    Json,
}

/// How a kernel learns of virtio devices.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Announcement {
    /// By ACPI, or by the device tree where there is one
    Tables,
    /// By `virtio_mmio.device=` on its command line
    Cmdline,
}

/// Starts logging to stderr, at most so many lines a second. `RUST_LOG` wins over `-v`.
pub fn start_logging(verbose: u8) {
    let level = ["warn", "debug", "trace"][usize::from(verbose.min(2))];
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level));
    let logger = builder.target(env_logger::Target::Pipe(Box::new(Diagnostics))).build();
    log::set_max_level(logger.filter());
    // It fails only where there is a logger already.
    let _ = log::set_boxed_logger(Box::new(Limited::new(logger)));
}
