//! What each architecture's virtual maps are read by.

use crate::x86_64::paging;

/// The registers of a vCPU that decide how its virtual addresses are translated, of the architectures whose virtual maps can be
/// read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualMapRegisters {
    /// Of an x86-64 vCPU.
    X86_64(paging::Registers),
}
