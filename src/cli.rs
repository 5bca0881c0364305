//! The command line, as arguments only: nothing here opens a file or a device.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use carpel_arch::Topology;
use carpel_arch::map::{Arch, Boot};
use carpel_devices::units;
use clap::builder::NonEmptyStringValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::cpus;
use crate::map::Format;
use crate::output;

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
  130  Ctrl-A x; 128+N: signal N
  (v << 1) | 1: the guest wrote v to the debug-exit port";

/// A microVM monitor for Linux on KVM.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// Log more, to stderr (twice: everything); RUST_LOG is honoured too
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
}

/// What `run` and `map` have in common.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// Kernel to boot; its format is recognised
    #[arg(short, long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Firmware to start instead of a kernel, or to start a bzImage by
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Boot the kernel by linux, pvh or multiboot [default: the best way that it offers]
    #[arg(long, value_name = "WAY", value_parser = boot)]
    pub boot: Option<Boot>,
    /// Initial RAM disk; for a Multiboot kernel, its module
    #[arg(short, long, visible_alias = "initramfs", value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Guest memory: bytes, or with K, M, G, T in powers of 1024
    #[arg(short, long, visible_alias = "memory", value_name = "SIZE", default_value = "1G", value_parser = units::size)]
    // A negative number is a wrong value then, not an unknown option.
    #[arg(allow_negative_numbers = true)]
    pub mem: u64,
    /// Number of vCPUs, and how they are arranged: 8, or 8,sockets=2,cores=2,threads=2 (cores of a socket, threads of a core)
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = cpus::parse, allow_hyphen_values = true)]
    pub cpus: Topology,
    /// Guest physical map [default: the architecture's]
    #[arg(long, value_name = "NAME")]
    pub layout: Option<String>,
    /// Interrupt controller of an aarch64 guest: GICv2 or GICv3 [default: 3 where the host has it]
    #[arg(long, value_name = "VERSION", value_parser = gic)]
    pub gic: Option<u8>,
}

#[derive(Debug, Args)]
pub struct MapArgs {
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Architecture of the guest [default: this host's]
    #[arg(long, value_name = "ARCH", value_parser = architecture)]
    pub arch: Option<Arch>,
    /// Guest physical address bits [default: 46 on x86_64, 40 on aarch64 and riscv64]
    #[arg(long, value_name = "BITS", value_parser = phys_bits, allow_hyphen_values = true)]
    pub phys_bits: Option<u8>,
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Show the guest less than the host's processor: host, max or x86-64-v1 to x86-64-v4, then ,+FEATURE or ,-FEATURE
    #[arg(long, value_name = "MODEL", allow_hyphen_values = true)]
    pub cpu: Option<String>,
    /// Add to the kernel command line (may repeat)
    #[arg(short, long, visible_alias = "cmdline", value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Give the guest a disk: FILE, then keys of blk, as in FILE,ro,id=X; `carpel devices` lists them (may repeat)
    #[arg(long, value_name = "FILE")]
    pub disk: Vec<String>,
    /// Give the guest a network interface: tap=NAME, then keys of net; `carpel devices` lists them (may repeat)
    #[arg(long, value_name = "KIND")]
    pub net: Vec<String>,
    /// Connect the guest's vsock to a unix socket: cid=N,uds=PATH, as `carpel devices` says of vsock
    #[arg(long, value_name = "KEYS")]
    pub vsock: Option<String>,
    /// Configure a device: KIND[,key=value...]; `carpel devices` lists them (may repeat)
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// How the kernel learns of virtio devices: tables, or cmdline for a kernel without ACPI
    #[arg(long, value_enum, value_name = "WAY", default_value = "tables", hide_possible_values = true)]
    pub announce: Announcement,
    /// Where the guest's console goes: stdio, null, file=FILE, socket=FILE or pty; on a terminal, Ctrl-A x ends the guest
    #[arg(long, value_name = "TARGET", default_value = "stdio")]
    pub console: String,
    /// End the guest after this time (30s, 2m, 500ms), with status 124
    #[arg(long, value_name = "DURATION", value_parser = units::duration, allow_hyphen_values = true)]
    pub timeout: Option<Duration>,
    /// End the guest when its console was silent for this time, with status 122
    #[arg(long, value_name = "DURATION", value_parser = units::duration, allow_hyphen_values = true)]
    pub watchdog: Option<Duration>,
    /// End the guest when a line of its console matches, with status 0
    #[arg(long, value_name = "REGEX", value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub until: Option<String>,
    /// End the guest when a line of its console matches, with status 123 (may repeat)
    #[arg(long, value_name = "REGEX", value_parser = NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub fail_on: Vec<String>,
    /// Write the run's facts to a file: JSON, or JUnit if its name ends in .xml
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print the guest's physical and virtual map to stderr when it has ended; SIGUSR1 prints them at once
    #[arg(long)]
    pub dump_map_on_exit: bool,
    /// Print the plan (map, command line, devices) and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Run a command in the guest (not built yet)
    #[arg(last = true, value_name = "COMMAND", hide = true)]
    pub command: Vec<OsString>,
}

/// How a kernel learns of virtio devices.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Announcement {
    /// By ACPI, or by the device tree where there is one
    Tables,
    /// By `virtio_mmio.device=` on its command line
    Cmdline,
}

fn architecture(name: &str) -> Result<Arch, String> {
    Arch::from_name(name).ok_or_else(|| format!("The architectures are {}", Arch::ALL.map(Arch::name).join(", ")))
}

fn boot(name: &str) -> Result<Boot, String> {
    let ways = Boot::OF_IMAGES;
    let found = ways.into_iter().find(|way| way.name() == name);
    found.ok_or_else(|| format!("The ways to boot are {}", ways.map(Boot::name).join(", ")))
}

fn gic(version: &str) -> Result<u8, &'static str> {
    match version {
        "2" => Ok(2),
        "3" => Ok(3),
        _ => Err("The versions are 2 and 3"),
    }
}

/// Which numbers there are is the map's to say.
fn phys_bits(bits: &str) -> Result<u8, &'static str> {
    bits.parse().map_err(|_| "Address bits are a whole number from 32 to 52")
}

/// Prints help or version as they are, and an error as one line.
pub fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed stdout leaves nothing to tell and nobody to tell it to.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        output::complain("No command is given; see `carpel --help`");
        return ExitCode::from(USAGE_ERROR);
    }
    let mut message = usage_error(&error.render().to_string());
    let unknown = [ErrorKind::UnknownArgument, ErrorKind::InvalidSubcommand].contains(&error.kind());
    if unknown && !message.contains("; tip: ") {
        message += &advice(error);
    }
    output::complain(message);
    // `--` comes before a command only.
    let with_command = std::env::args_os().any(|argument| argument == "--");
    ExitCode::from(if with_command { FAILURE } else { USAGE_ERROR })
}

/// Where to read on, after an argument that is unlike any other.
fn advice(error: &clap::Error) -> String {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        _ => return "; see `carpel --help`".into(),
    };
    let command = std::env::args().nth(1).filter(|name| Cli::command().find_subcommand(name).is_some());
    let command = command.map_or_else(String::new, |name| name + " ");
    let kernel =
        if command == "run " && !argument.starts_with('-') { ": a kernel is named by --kernel FILE" } else { "" };
    format!("; see `carpel {command}--help`{kernel}")
}

/// What the parser found wrong, without its advice to put values behind `--`, which comes before a command here.
fn usage_error(text: &str) -> String {
    let superfluous = ["Usage:", "For more", "tip: to pass"];
    let is_needed = |line: &&str| !superfluous.iter().any(|start| line.trim_start().starts_with(start));
    let lines: Vec<_> = text.lines().filter(is_needed).collect();
    let paragraphs = lines.split(|line| line.is_empty()).filter(|lines| !lines.is_empty());
    let words = |lines: &[&str]| lines.iter().flat_map(|line| line.split_whitespace()).collect::<Vec<_>>().join(" ");
    let message = paragraphs.map(words).collect::<Vec<_>>().join("; ");
    let mut chars = message.trim_start_matches("error: ").chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Starts logging to stderr. `RUST_LOG` wins over `-v`.
pub fn start_logging(verbose: u8) {
    let level = ["warn", "debug", "trace"][usize::from(verbose.min(2))];
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
}
