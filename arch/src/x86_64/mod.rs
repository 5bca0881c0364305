//! x86-64: layouts, and what a boot loader or firmware would leave in memory for a kernel.

pub mod acpi;
pub mod acpi_loader;
pub mod boot;
pub mod cpu;
pub mod devices;
pub mod maps;
pub mod mptable;
pub mod multiboot;
pub mod paging;
pub mod structures;
