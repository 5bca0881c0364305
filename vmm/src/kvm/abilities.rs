//! What this host's KVM can do.

use kvm_ioctls::Kvm;

use super::error::{API_VERSION, KvmError};
use super::{host, open};

/// What matters of this host's KVM to a user.
#[derive(Debug)]
pub struct Abilities {
    /// Version of the API.
    pub version: i32,
    /// Capabilities that carpel needs and this KVM lacks.
    pub missing: Vec<&'static str>,
    /// The most vCPUs of one guest.
    pub max_vcpus: usize,
    /// Guest physical address bits.
    pub phys_bits: u8,
    /// Whether guests run natively. Without it, KVM emulates each instruction, and too few of them for Linux.
    pub hardware: bool,
}

impl Abilities {
    /// Opens KVM and asks it.
    pub fn query() -> Result<Self, KvmError> {
        let kvm: Kvm = open()?;
        let missing = host::NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|&(_, name)| name);
        Ok(Self {
            version: API_VERSION,
            missing: missing.collect(),
            max_vcpus: kvm.get_max_vcpus(),
            phys_bits: host::phys_bits(),
            hardware: host::has_hardware_virtualization(),
        })
    }
}
