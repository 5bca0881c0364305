//! Texts of the command line: sizes, durations, what `--device` and `--cpu` take.

#![no_main]

use carpel_arch::x86_64::cpu::CpuModel;
use carpel_devices::units;
use carpel_devices::virtio::REGISTRY;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = (units::size(text), units::duration(text), CpuModel::parse(text));
    for kind in REGISTRY {
        if let Ok(options) = kind.kind.parse(text) {
            for key in kind.kind.keys {
                let _ = (options.get(key.name), options.size(key.name));
            }
        }
    }
});
