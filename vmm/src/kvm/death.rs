//! How KVM tells that a vCPU has come to its end.

/// Why a vCPU cannot go on.
pub enum Death {
    /// A triple fault.
    Shutdown,
    /// The hardware refused to enter the guest, for this reason.
    FailEntry(u64),
    /// KVM gave up.
    InternalError,
    /// KVM_RUN failed, or left for a reason that no guest of ours gives.
    Unexpected(String),
}
