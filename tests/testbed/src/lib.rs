//! Hosts, kernels, payloads and measurements for the tests of carpel.

pub mod payload;
