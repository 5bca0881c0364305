//! aarch64: layouts, interrupt controller, device tree.

pub mod fdt;
pub mod gic;
pub mod maps;
