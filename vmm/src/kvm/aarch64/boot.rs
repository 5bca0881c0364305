//! What a boot loader would leave in memory for a Linux kernel, and the state that it is entered in.

use carpel_arch::aarch64::fdt::{self, Kind, Machine};
use carpel_arch::map::RowName;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use crate::kvm::KvmError;
use crate::plan::Plan;
use crate::platform::{Device, Place, Placed};

/// Where the first vCPU starts, and what it is given (Linux, Documentation/arm64/booting.rst): X0 is the device tree's address.
pub struct BootCpu {
    /// Address of the first instruction.
    pub entry: u64,
    /// Address of the device tree.
    pub fdt: u64,
}

/// Writes the device tree and returns the first vCPU's state.
pub fn write_boot_structures(plan: &Plan, memory: &GuestMemoryMmap) -> Result<BootCpu, KvmError> {
    let virtio = plan.virtio_in_tables().iter().map(|window| fdt::Device {
        kind: Kind::VirtioMmio,
        range: window.base..window.base + window.len,
        spi: Some(window.irq),
    });
    let machine = Machine {
        map: &plan.map,
        vcpus: plan.vcpus,
        cmdline: &plan.cmdline,
        devices: plan.devices.iter().filter_map(described).chain(virtio).collect(),
    };
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

/// How the device tree describes a device; not at all, if it is one that Arm machines do not have.
fn described(placed: &Placed) -> Option<fdt::Device> {
    let kind = match placed.device {
        Device::Serial => Kind::Serial16550,
        Device::Pl011 => Kind::Pl011,
        Device::Pl031 => Kind::Pl031,
        Device::Pl061 => Kind::Pl061,
        Device::CfiFlash => Kind::CfiFlash,
        _ => return None,
    };
    let Place::Mmio(range) = &placed.place else { return None };
    Some(fdt::Device { kind, range: range.clone(), spi: placed.irq })
}
