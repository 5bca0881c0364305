//! Why a machine could not be built: the error of all that takes part in it.

use std::io;

use carpel_arch::map::Arch;
use carpel_arch::{Device, Place};
use carpel_devices::bus::BusError;
use thiserror::Error;

use crate::boot::BootError;
use crate::kvm::KvmError;
use crate::loader::LoadError;
use crate::memory::MemoryError;
use crate::plan::Plan;

/// Why a machine could not be built.
#[derive(Debug, Error)]
pub enum MachineError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Guest memory does not hold what the guest needs at its start.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// There is no memory for the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The firmware's image could not be read.
    #[error("Cannot load the firmware")]
    Firmware(#[from] LoadError),
    /// The host gives no more threads, or no memory for them.
    #[error("Cannot start the vCPUs' threads")]
    Threads(#[source] io::Error),
    /// Two devices want one address.
    #[error("Cannot place a device")]
    Bus(#[from] BusError),
    /// A device that this machine does not have, or not where it is to be.
    #[error("A machine of {arch} with the layout `{layout}` cannot have the device `{name}` at {place}")]
    Device {
        /// The device.
        name: &'static str,
        /// Where it is to be.
        place: Place,
        /// The machine's architecture.
        arch: Arch,
        /// Its layout.
        layout: &'static str,
    },
    /// An eventfd could not be had.
    #[error("Cannot create the interrupt line of `{name}`")]
    Line {
        /// The device.
        name: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl MachineError {
    /// A device of the plan's that nothing here makes.
    pub(crate) fn unknown(plan: &Plan, device: &Device) -> Self {
        let (arch, layout) = (plan.map.arch, plan.map.layout);
        Self::Device { name: device.name, place: device.place.clone(), arch, layout }
    }
}
