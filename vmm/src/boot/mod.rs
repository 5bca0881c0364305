//! What a boot loader and firmware would leave in guest memory, and the state that the first vCPU is entered in.
//!
//! Nothing here calls KVM or depends on the host: every architecture's structures are written, and tested, on every host.

pub mod aarch64;
mod pvh;
#[cfg(test)]
mod tests;
pub mod x86_64;
mod zero_page;

use carpel_arch::aarch64::fdt::FdtError;
use carpel_arch::map::{Boot, Extent, MissingRow, RowName};
use carpel_arch::x86_64::acpi::AcpiError;
use thiserror::Error;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::loader::{Files, LoadError};
use crate::plan::Plan;

/// Why guest memory does not hold what the guest needs at its start.
#[derive(Debug, Error)]
pub enum BootError {
    /// The map lacks what the guest needs.
    #[error(transparent)]
    Map(#[from] MissingRow),
    /// Guest memory could not be reached where the map says it is.
    #[error("Cannot write the {what} to guest memory")]
    Write {
        /// What was to be written.
        what: &'static str,
        /// The cause.
        source: GuestMemoryError,
    },
    /// A file did not get into guest memory.
    #[error("Cannot load the {what}")]
    Load {
        /// Which file.
        what: &'static str,
        /// The cause.
        source: LoadError,
    },
    /// A structure is larger than the place that the map has for it.
    #[error("The {what} of {size} bytes does not fit {start:#x}-{end:#x}")]
    Size {
        /// The structure.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// Where its place starts.
        start: u64,
        /// Where that ends, exclusive.
        end: u64,
    },
    /// The kernel's entry is beyond what its vCPU can reach.
    #[error("The entry of the kernel at {start:#x} is beyond the guest's addresses")]
    Entry {
        /// Where the kernel starts.
        start: u64,
    },
    /// The ACPI tables cannot be built.
    #[error("Cannot build the ACPI tables")]
    Acpi(#[from] AcpiError),
    /// The device tree cannot be built.
    #[error("Cannot build the device tree")]
    Fdt(#[from] FdtError),
}

/// Loads the guest's files.
pub fn load(plan: &Plan, files: &Files, memory: &GuestMemoryMmap) -> Result<(), BootError> {
    let load = |what| move |source| BootError::Load { what, source };
    // Firmware loads by itself the kernel that it is handed.
    if let Some(source) = files.kernel.as_ref().filter(|_| plan.kernel.boot != Boot::Firmware) {
        let kernel_start = plan.map.need_claim(RowName::Kernel)?.start;
        plan.kernel.load(source, memory, kernel_start).map_err(load("kernel"))?;
    }
    if let Some(claim) = plan.map.claim(RowName::Initrd) {
        for (module, ramdisk) in plan.modules.iter().zip(&files.initrds) {
            let address = claim.start + module.offset;
            ramdisk.source.load(memory, 0, module.size, address).map_err(load("initial RAM disk"))?;
        }
    }
    // All of the image or the end of it: where the map has it in RAM.
    let firmware = [RowName::Firmware, RowName::FirmwareLow].into_iter().find_map(|name| plan.map.claim(name));
    if let (Some(source), Some(claim)) = (&files.firmware, firmware) {
        let offset = source.size().saturating_sub(claim.size());
        source.load(memory, offset, claim.size(), claim.start).map_err(load("firmware"))?;
    }
    Ok(())
}

/// The address of the kernel's or firmware's first instruction, given where its image starts.
fn entry(plan: &Plan, start: u64) -> Result<u64, BootError> {
    plan.kernel.entry.resolve(start).ok_or(BootError::Entry { start })
}

/// Writes a structure to the place that the map has for it.
fn write(memory: &GuestMemoryMmap, what: &'static str, place: &Extent, bytes: &[u8]) -> Result<(), BootError> {
    if bytes.len() as u64 > place.size() {
        return Err(BootError::Size { what, size: bytes.len(), start: place.start, end: place.end });
    }
    memory.write_slice(bytes, GuestAddress(place.start)).map_err(|source| BootError::Write { what, source })
}
