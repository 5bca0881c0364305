//! The console with one more port, behind its transport.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    carpel_fuzz::virtio::drive("console", data);
});
