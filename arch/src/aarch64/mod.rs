//! aarch64: layouts, devices, interrupt controller, device tree.

pub mod devices;
pub mod fdt;
pub mod gic;
pub mod maps;
