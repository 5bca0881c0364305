//! aarch64: layouts.

pub mod maps;
