//! The entropy device behind its transport.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    carpel_fuzz::virtio::drive("rng", data);
});
