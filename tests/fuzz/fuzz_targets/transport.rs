//! The virtio-mmio transport, by registers and memory alone.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    carpel_fuzz::virtio::drive("transport", data);
});
