//! Why there is no plan.

use carpel_arch::MapError;
use carpel_arch::map::{Arch, MissingRow};
use std::path::PathBuf;
use thiserror::Error;

use crate::config::{IrqchipMode, LayoutError};

/// Why a configuration has no plan.
#[derive(Debug, Error)]
pub enum PlanError {
    /// There is no such map.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// There is nothing to boot.
    #[error("There is no kernel to boot; name one with --kernel FILE")]
    NoKernel,
    /// Firmware would load them over one another.
    #[error(
        "The kernel and its initial RAM disk, which firmware loads below {limit:#x}, end at {needed:#x}: \
         drop --firmware or give the guest more memory with --mem"
    )]
    Handover {
        /// Where they end at least.
        needed: u64,
        /// Where they must end.
        limit: u64,
    },
    /// Nobody would read it.
    #[error(
        "The command line `{words}` is for a kernel, but {} boots from a disk: drop --append and \
         --announce cmdline (and --cmdline)",
        .firmware.display()
    )]
    CmdlineWithFirmware {
        /// What was to be told.
        words: String,
        /// The firmware.
        firmware: PathBuf,
    },
    /// The map has no room for firmware.
    #[error("The layout `{layout}` of {arch} has no place for --firmware")]
    NoFirmware {
        /// The guest's architecture.
        arch: Arch,
        /// The layout.
        layout: &'static str,
    },
    /// No map for these inputs.
    #[error(
        "Cannot lay out the `{layout}` map{}",
        .other.map(|other| format!(" (`--layout {other}` takes it)")).unwrap_or_default()
    )]
    Map {
        /// The layout.
        layout: &'static str,
        /// Another layout that has a map for them.
        other: Option<&'static str>,
        /// The cause.
        source: Box<MapError>,
    },
    /// The layout lacks what every machine needs.
    #[error(transparent)]
    Row(#[from] MissingRow),
    /// The interrupt controllers are another architecture's.
    #[error("A machine of {arch} has no interrupt controllers `{}`", .irqchip.name())]
    Irqchip {
        /// The architecture.
        arch: Arch,
        /// The interrupt controllers.
        irqchip: IrqchipMode,
    },
    /// The command line is longer than the kernel or its place takes.
    #[error("The kernel command line has {size} bytes; the limit is {limit}: {cmdline:.64}...")]
    CmdlineTooLong {
        /// Bytes.
        size: usize,
        /// Most bytes.
        limit: usize,
        /// The text.
        cmdline: String,
    },
    /// The command line has characters that no kernel reads.
    #[error("The kernel command line cannot hold `{text}`: only printable ASCII characters")]
    CmdlineText {
        /// The offending part.
        text: String,
    },
    /// The layout has no place or interrupt left for a device.
    #[error(
        "There is no room for device {number} (`{device}`): the layout `{layout}` has {room} windows with an interrupt"
    )]
    TooManyDevices {
        /// The device's number, from 1.
        number: usize,
        /// The device as it was written.
        device: String,
        /// The layout.
        layout: &'static str,
        /// How many devices have room.
        room: usize,
    },
}
