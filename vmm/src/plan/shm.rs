//! Memory that devices share with the guest besides RAM: what they ask for, and where the map has it.

use carpel_arch::ShmRequest as MapRequest;
use carpel_arch::map::MemoryMap;
use carpel_devices::virtio::{ShmRegion, ShmRequest};

/// What all devices ask for, in the order in which the map places it.
pub fn requests(devices: &[Vec<ShmRequest>]) -> Vec<MapRequest> {
    let request = |ShmRequest { name, size }: &ShmRequest| MapRequest { name: name.clone(), size: *size };
    devices.iter().flatten().map(request).collect()
}

/// Where each device has what it asked for: the map has one region for each request, in their order.
pub fn places(map: &MemoryMap, devices: &[Vec<ShmRequest>]) -> Vec<Vec<ShmRegion>> {
    let mut regions = map.shm().map(|region| ShmRegion { name: region.label().to_owned(), range: region.range() });
    devices.iter().map(|requests| regions.by_ref().take(requests.len()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use carpel_arch::{Inputs, LAYOUTS, resolve};

    const GIB: u64 = 1 << 30;

    fn request(name: &str, size: u64) -> ShmRequest {
        ShmRequest { name: name.to_owned(), size }
    }

    #[test]
    fn each_device_gets_its_own_regions_in_every_layout() {
        let devices =
            [vec![], vec![request("cache", 2 * GIB), request("log", 0x1000)], vec![], vec![request("pmem", 3 * GIB)]];
        for layout in LAYOUTS {
            let inputs = Inputs { shm: requests(&devices), ..Inputs::new(layout.arch, 6 * GIB) };
            let map = resolve(layout, &inputs).unwrap();
            let places = places(&map, &devices);
            let expected: Vec<_> = map.shm().map(|region| (region.label().to_owned(), region.range())).collect();
            let got: Vec<_> = places.iter().flatten().map(|place| (place.name.clone(), place.range.clone())).collect();
            assert_eq!(got, expected);
            let counts: Vec<_> = places.iter().map(Vec::len).collect();
            assert_eq!(counts, [0, 2, 0, 1]);
            for (region, request) in places.iter().flatten().zip(devices.iter().flatten()) {
                assert_eq!((&region.name, region.range.end - region.range.start), (&request.name, request.size));
            }
        }
    }
}
