//! riscv64: layouts.

pub mod maps;
