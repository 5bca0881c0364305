//! How drivers reach devices.

pub mod mmio;
