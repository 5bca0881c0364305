//! What carpel knows of each architecture as data: guest physical maps and boot structures.
//!
//! Nothing here touches KVM or the host, so every architecture's tables compile, resolve and print on every host.

#![forbid(unsafe_code)]

pub mod aarch64;
mod board;
pub mod device;
pub mod map;
mod resolve;
pub mod riscv64;
mod topology;
mod virtual_map;
pub mod x86_64;

pub use board::Board;
pub use device::{Device, DeviceKind, Place};
pub use map::{
    Arch, Boot, Extent, Gic, Inputs, KernelExtent, Kind, Layout, MemoryMap, MissingRow, RowName, ShmRequest,
};
pub use resolve::{MapError, resolve};
pub use topology::{Topology, TopologyError};
pub use virtual_map::VirtualMapRegisters;

/// Every layout that carpel knows, the default of each architecture first.
pub static LAYOUTS: &[&Layout] =
    &[&x86_64::maps::KRUN, &x86_64::maps::CROSVM, &aarch64::maps::CROSVM, &aarch64::maps::VIRT, &riscv64::maps::VIRT];
