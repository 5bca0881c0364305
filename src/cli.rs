//! The command line, as arguments only: nothing here opens a file or a device.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use carpel_arch::map::{Arch, Inputs, Layout, MemoryMap};
use carpel_arch::{LAYOUTS, resolve};
use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::map::Format;
use crate::units;

/// Exit status when the command line or a file named on it is wrong.
pub const USAGE_ERROR: u8 = 2;

/// A microVM monitor for Linux on KVM.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// Log more, to stderr (twice: everything); RUST_LOG is honoured too
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the guest physical map of a configuration
    Map(MapArgs),
}

/// What `run` and `map` have in common.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// Kernel to boot; its format is recognised
    #[arg(short, long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(short, long, visible_alias = "initramfs", value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Guest memory: bytes, or with K, M, G, T in powers of 1024
    #[arg(short, long, visible_alias = "memory", value_name = "SIZE", default_value = "1G", value_parser = units::size)]
    pub mem: u64,
    /// Number of vCPUs
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// Guest physical map [default: the architecture's]
    #[arg(long, value_name = "NAME")]
    pub layout: Option<String>,
}

#[derive(Debug, Args)]
pub struct MapArgs {
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Architecture of the guest [default: this host's]
    #[arg(long, value_name = "ARCH", value_parser = architecture)]
    arch: Option<Arch>,
    /// Guest physical address bits [default: 46 on x86_64, 40 on aarch64 and riscv64]
    #[arg(long, value_name = "BITS")]
    phys_bits: Option<u8>,
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

impl MapArgs {
    /// The map of the configuration.
    pub fn resolve(&self) -> Result<MemoryMap> {
        let arch = self.arch.or(Arch::HOST).context("No layout is known for this host; name an --arch")?;
        let layout = layout(arch, self.guest.layout.as_deref())?;
        let phys_bits = self.phys_bits.unwrap_or(arch.default_phys_bits());
        let inputs = Inputs { vcpus: self.guest.cpus, phys_bits, ..Inputs::new(arch, self.guest.mem) };
        resolve(layout, &inputs).with_context(|| format!("Cannot lay out the `{}` map", layout.name))
    }
}

/// The layout of this name, or the architecture's default.
fn layout(arch: Arch, name: Option<&str>) -> Result<&'static Layout> {
    let mut layouts = LAYOUTS.iter().copied().filter(|layout| layout.arch == arch);
    layouts.clone().find(|layout| name.is_none_or(|name| layout.name == name)).ok_or_else(|| {
        let names: Vec<_> = layouts.by_ref().map(|layout| layout.name).collect();
        anyhow!("There is no layout `{}` for {arch}; there is {}", name.unwrap_or_default(), names.join(", "))
    })
}

fn architecture(name: &str) -> Result<Arch, String> {
    Arch::from_name(name).ok_or_else(|| format!("The architectures are {}", Arch::ALL.map(Arch::name).join(", ")))
}

/// Prints help or version as they are, and an error as one line.
pub fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed stdout leaves nothing to tell and nobody to tell it to.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprintln!("carpel: No command is given; see `carpel --help`");
        return ExitCode::from(USAGE_ERROR);
    }
    let text = error.render().to_string();
    let paragraphs = text.split("\n\n").filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more"));
    let lines: Vec<_> = paragraphs.map(|part| part.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    eprintln!("carpel: {}", lines.join("; ").trim_start_matches("error: "));
    ExitCode::from(USAGE_ERROR)
}

/// Starts logging to stderr. `RUST_LOG` wins over `-v`.
pub fn start_logging(verbose: u8) {
    let level = ["warn", "debug", "trace"][usize::from(verbose.min(2))];
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
}
