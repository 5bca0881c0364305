//! Where a map has the interrupt controller.

use std::ops::Range;

use crate::board::Board;
use crate::map::{Gic, MemoryMap, RowName};

/// Where a board's map has the distributor, and what each vCPU has: redistributors (`GICv3`) or CPU interfaces (`GICv2`).
struct Rows {
    distributor: RowName,
    redistributors: RowName,
    cpu_interfaces: RowName,
}

const CROSVM: Rows =
    Rows { distributor: RowName::GicDist, redistributors: RowName::GicRedist, cpu_interfaces: RowName::GicCpu };
const VIRT: Rows = Rows { distributor: RowName::Gicd, redistributors: RowName::Gicr, cpu_interfaces: RowName::Gicc };

/// Sizes of the frames with registers, which may be less than the map sets aside (Arm IHI 0069 and IHI 0048, memory maps).
const V3_DISTRIBUTOR: u64 = 0x1_0000;
const V2_DISTRIBUTOR: u64 = 0x1000;
const V2_CPU_INTERFACE: u64 = 0x2000;

/// The interrupt controller of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GicMap {
    /// Its version.
    pub version: Gic,
    /// The distributor.
    pub distributor: Range<u64>,
    /// The redistributors, or the CPU interface, which all vCPUs have at one address.
    pub cpu: Range<u64>,
}

impl GicMap {
    /// The interrupt controller of an aarch64 map; none in others.
    pub fn of(map: &MemoryMap) -> Option<Self> {
        let rows = match map.board {
            Board::ArmCrosvm => CROSVM,
            Board::ArmVirt => VIRT,
            Board::Pc | Board::RiscvVirt => return None,
        };
        let frame = |start: u64, size: u64| start..start + size;
        let distributor = map.region(rows.distributor)?.start;
        if let Some(redistributors) = map.region(rows.redistributors) {
            let distributor = frame(distributor, V3_DISTRIBUTOR);
            return Some(Self { version: Gic::V3, distributor, cpu: redistributors.range() });
        }
        let cpu = frame(map.region(rows.cpu_interfaces)?.start, V2_CPU_INTERFACE);
        Some(Self { version: Gic::V2, distributor: frame(distributor, V2_DISTRIBUTOR), cpu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::maps::{CROSVM, VIRT};
    use crate::map::{Arch, Inputs};
    use crate::resolve;

    #[test]
    fn every_layout_has_both_versions() {
        for layout in [&CROSVM, &VIRT] {
            for gic in [Gic::V2, Gic::V3] {
                let map = resolve(layout, &Inputs { gic, ..Inputs::new(Arch::Aarch64, 1 << 30) }).unwrap();
                let found = GicMap::of(&map).unwrap();
                assert_eq!(found.version, gic, "{}", layout.name);
                assert!(found.distributor.end <= found.cpu.start || found.cpu.end <= found.distributor.start);
            }
        }
    }
}
