//! Hosts, kernels, payloads and measurements for the tests of carpel.

pub mod arch;
pub mod bench;
pub mod boot;
pub mod cache;
pub mod command;
pub mod compile;
pub mod demo;
pub mod guest;
pub mod host;
pub mod hosts;
pub mod initramfs;
pub mod iomem;
pub mod kernel;
pub mod module;
pub mod packages;
pub mod payload;
pub mod say;
pub mod tiny;
pub mod verify;
pub mod workspace;
