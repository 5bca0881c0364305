//! How drivers reach devices: one status machine, and for each transport the registers by which drivers see it.

pub mod core;
pub mod mmio;
