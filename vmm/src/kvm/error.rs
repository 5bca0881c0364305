//! Why KVM does not serve.

use carpel_arch::map::MissingRow;
use thiserror::Error;
use vm_memory::GuestMemoryError;
use vmm_sys_util::errno::Error as Errno;

use crate::boot::BootError;
use crate::memory::MemoryError;

/// The device that KVM is reached by.
pub const DEVICE: &str = "/dev/kvm";
/// KVM's API has been at this version since Linux 2.6.22; the documentation has others refused.
pub(super) const API_VERSION: i32 = 12;

/// Why KVM does not serve.
#[derive(Debug, Error)]
pub enum KvmError {
    /// The device is not there.
    #[error("There is no {DEVICE}: load the module kvm_intel or kvm_amd, or enable virtualization in the firmware")]
    Missing,
    /// The device may not be opened.
    #[error("No permission to open {DEVICE}: add this user to the group `kvm`, then log in again")]
    Permission,
    /// The device cannot be opened.
    #[error("Cannot open {DEVICE}")]
    Open(#[source] Errno),
    /// It is not KVM as we know it.
    #[error("{DEVICE} speaks version {0} of KVM's API; {API_VERSION} is needed")]
    Version(i32),
    /// A call failed.
    #[error("{call} failed{detail}")]
    Call {
        /// The call's name in KVM's documentation.
        call: &'static str,
        /// With which values, if that matters.
        detail: String,
        /// The cause.
        source: Errno,
    },
    /// More vCPUs than this host's KVM takes.
    #[error("{wanted} vCPUs are more than the {max} that KVM takes on this host")]
    TooManyVcpus {
        /// What was asked for.
        wanted: u32,
        /// The most.
        max: usize,
    },
    /// There is no memory for what KVM shares with the guest.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The processor that was asked for has more than this host's.
    #[error("KVM on this host does not support what --cpu asks for: {0}")]
    Features(String),
    /// A memory slot that is no region of guest memory.
    #[error("There is no guest memory at {start:#x} for a memory slot")]
    Slot {
        /// Where the slot starts.
        start: u64,
        /// The cause.
        source: GuestMemoryError,
    },
    /// The map lacks what the machine needs.
    #[error(transparent)]
    Map(#[from] MissingRow),
    /// Guest memory does not hold what the guest needs at its start.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A vCPU has more registers than KVM's structures hold.
    #[error("Cannot set a vCPU's registers: {0}")]
    Registers(String),
    /// The map is of another architecture.
    #[error("The map has no interrupt controller")]
    NoGic,
}

/// Adds the call's name to an error of KVM's.
pub(super) trait Context<T> {
    fn call(self, call: &'static str) -> Result<T, KvmError>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn call(self, call: &'static str) -> Result<T, KvmError> {
        self.map_err(|source| KvmError::Call { call, detail: String::new(), source })
    }
}

/// A signal must not end what is only being set up.
pub(super) fn retry_interrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}
