//! Sockets between guest and host, behind their transport.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    carpel_fuzz::virtio::drive("vsock", data);
});
