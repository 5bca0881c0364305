//! Where virtio devices are, and how a guest without tables learns of them.

use carpel_arch::map::MemoryMap;
use carpel_arch::{Device, DeviceKind, Place};
use carpel_devices::virtio::config::VirtioConfig;

use super::error::PlanError;
use crate::config::Config;

/// Gives each device the next window and the next interrupt of the layout.
pub fn place(map: &MemoryMap, config: &Config) -> Result<Vec<Device>, PlanError> {
    let layout = config.layout()?;
    let irqs = layout.window_irqs.iter().cloned().flatten();
    let mut places = map.windows(layout)?.zip(irqs);
    let place = |(index, device): (usize, &VirtioConfig)| {
        let (range, irq) = places.next().ok_or_else(|| PlanError::TooManyDevices {
            number: index + 1,
            device: device.text(),
            layout: layout.name,
            room: index,
        })?;
        let (kind, name) = (DeviceKind::VirtioMmio, device.kind().name);
        Ok(Device { kind, name, place: Place::Mmio(range), irq: Some(irq) })
    };
    config.devices.iter().enumerate().map(place).collect()
}

/// What tells Linux of the devices on its command line (drivers/virtio/virtio_mmio.c).
pub fn words(devices: &[Device]) -> Vec<String> {
    let word = |device: &Device| {
        let (range, irq) = device.place.mmio().zip(device.irq)?;
        Some(format!("virtio_mmio.device={}K@{:#x}:{irq}", (range.end - range.start) >> 10, range.start))
    };
    devices.iter().filter_map(word).collect()
}
