//! What is of one host architecture, under one name.

#[cfg(target_arch = "aarch64")]
pub use super::aarch64::*;
#[cfg(target_arch = "x86_64")]
pub use super::x86_64::*;
