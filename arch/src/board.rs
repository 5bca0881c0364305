//! Machines by name.

/// The machine that a layout is the map of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Board {
    /// A PC.
    Pc,
    /// The Arm machine of crosvm.
    ArmCrosvm,
    /// QEMU's `virt` machine for Arm.
    ArmVirt,
    /// QEMU's `virt` machine for RISC-V.
    RiscvVirt,
}
