//! What a boot loader would leave in memory for an arm64 kernel, and the state that it is entered in.

use carpel_arch::aarch64::fdt::{self, Machine};
use carpel_arch::map::RowName;
use vm_memory::GuestMemoryMmap;

use super::BootError;
use crate::plan::Plan;

/// Where the first vCPU starts, and what it is given (Linux, Documentation/arm64/booting.rst): X0 is the device tree's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootCpu {
    /// Address of the first instruction.
    pub entry: u64,
    /// Address of the device tree.
    pub fdt: u64,
}

/// Writes the device tree and returns the first vCPU's state.
pub fn write(plan: &Plan, memory: &GuestMemoryMmap) -> Result<BootCpu, BootError> {
    let devices = plan.devices_in_tables();
    let machine = Machine { map: &plan.map, vcpus: plan.vcpus, cmdline: &plan.cmdline, devices: &devices };
    let place = plan.map.need_claim(RowName::Fdt)?;
    super::write(memory, "device tree", place, &fdt::build(&machine)?)?;
    let mut firmware = [RowName::Firmware, RowName::FirmwareImage].into_iter();
    let image = firmware.find_map(|name| plan.map.claim(name)).map_or_else(|| plan.map.need_claim(RowName::Kernel), Ok);
    Ok(BootCpu { entry: super::entry(plan, image?.start)?, fdt: place.start })
}
