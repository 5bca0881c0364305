//! What a boot loader would leave in memory for a Linux kernel, and the state that it is entered in.

use carpel_arch::aarch64::fdt::{self, Machine};
use carpel_arch::map::RowName;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use crate::kvm::KvmError;
use crate::plan::Plan;

/// Where the first vCPU starts, and what it is given (Linux, Documentation/arm64/booting.rst): X0 is the device tree's address.
pub struct BootCpu {
    /// Address of the first instruction.
    pub entry: u64,
    /// Address of the device tree.
    pub fdt: u64,
}

/// Writes the device tree and returns the first vCPU's state.
pub fn write_boot_structures(plan: &Plan, memory: &GuestMemoryMmap) -> Result<BootCpu, KvmError> {
    let devices = plan.devices_in_tables();
    let machine = Machine { map: &plan.map, vcpus: plan.vcpus, cmdline: &plan.cmdline, devices: &devices };
    let tree = fdt::build(&machine).map_err(|error| KvmError::Boot(error.to_string()))?;
    let claim = plan.map.need_claim(RowName::Fdt)?;
    if tree.len() as u64 > claim.size() {
        return Err(KvmError::Boot(format!(
            "The device tree has {} bytes; its place has {}",
            tree.len(),
            claim.size()
        )));
    }
    memory
        .write_slice(&tree, GuestAddress(claim.start))
        .map_err(|source| KvmError::Write { what: "device tree", source })?;
    let mut images = [RowName::Firmware, RowName::FirmwareImage].into_iter();
    let image = images.find_map(|name| plan.map.claim(name)).map_or_else(|| plan.map.need_claim(RowName::Kernel), Ok);
    let start = image?.start;
    Ok(BootCpu { entry: plan.kernel.entry.resolve(start).unwrap_or(start), fdt: claim.start })
}
