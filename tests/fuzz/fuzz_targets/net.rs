//! A network interface behind its transport.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    carpel_fuzz::virtio::drive("net", data);
});
