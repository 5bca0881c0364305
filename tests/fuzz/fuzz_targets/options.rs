//! Texts of the command line and of configuration files: sizes, durations, what `--device` and `--cpu` take, devices in JSON.

#![no_main]

use carpel_arch::x86_64::cpu::CpuModel;
use carpel_devices::key_values::KeyValues;
use carpel_devices::units;
use carpel_devices::virtio::GuestLimits;
use carpel_devices::virtio::config::{self, KINDS, VirtioConfig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = (units::size(text), units::duration(text), CpuModel::parse(text));
    let mut devices: Vec<VirtioConfig> = serde_json::from_str(text).unwrap_or_default();
    for kind in KINDS {
        let values = [KeyValues::parse(kind, text), KeyValues::parse_short(kind, text)];
        devices.extend(values.into_iter().flatten().filter_map(|values| VirtioConfig::from_text(kind, &values).ok()));
    }
    let guest = GuestLimits { mem: 1 << 30 };
    let _ = config::check(&devices, guest);
    for device in devices.iter().filter(|device| config::check(std::slice::from_ref(*device), guest).is_ok()) {
        let read = |text: String| VirtioConfig::parse(&text).expect("It is read as it is written");
        let again = device.texts().into_iter().map(read);
        let joined = again.reduce(|mut first, more| {
            first.join(more).expect("What is written adds up");
            first
        });
        assert_eq!(joined.as_ref(), Some(device));
    }
});
