//! The one place where guest physical addresses are computed.

use std::ops::Range;

use thiserror::Error;

use crate::map::{
    Address, Base, Bytes, Extent, Inputs, KernelExtent, Kind, Layout, MemoryMap, PAGE_SIZE, Row, Size, When,
};

/// Alignment of an arm64 or RISC-V Image's base in bytes (Linux, Documentation/arch/arm64/booting.rst).
const IMAGE_BASE_ALIGN: u64 = 2 << 20;
/// The search for the least memory that works looks at multiples of this many bytes ...
const LEAST_STEP: u64 = 1 << 20;
/// ... up to this many.
const LEAST_LIMIT: u64 = 1 << 40;

/// Why a table has no map for its inputs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// The size of memory is 0 or not made of pages.
    #[error("Guest memory of {mem} bytes is not a positive multiple of {PAGE_SIZE} bytes")]
    Granularity {
        /// Bytes asked for.
        mem: u64,
    },
    /// The table's windows for RAM are used up.
    #[error("Guest memory of {} does not fit: the layout has no place for the last {}", Bytes(*.mem), Bytes(*.rest))]
    RamWindows {
        /// Bytes asked for.
        mem: u64,
        /// Bytes left over.
        rest: u64,
    },
    /// A row that needs an address beyond the guest physical address space.
    #[error(
        "`{name}` of {} would end at {}, beyond the limit of {phys_bits} guest physical address bits ({})",
        Bytes(*.size), Address(*.end), Address(1 << *.phys_bits)
    )]
    AddressLimit {
        /// The row.
        name: &'static str,
        /// Its size in bytes.
        size: u64,
        /// Where it would end, exclusive; saturated.
        end: u64,
        /// The limit in bits.
        phys_bits: u8,
    },
    /// The number of address bits is none that these architectures have.
    #[error("{bits} guest physical address bits are not in the range of 32 to 52")]
    PhysBits {
        /// What was asked for.
        bits: u8,
    },
    /// More or fewer vCPUs than the layout has room for.
    #[error("{vcpus} vCPUs are not in the range of 1 to {max} that the `{layout}` layout has room for")]
    Vcpus {
        /// What was asked for.
        vcpus: u32,
        /// The most.
        max: u32,
        /// The layout.
        layout: &'static str,
    },
    /// Two ranges that share an address.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// The lower range.
        first: Extent,
        /// The higher range.
        second: Extent,
    },
    /// A claim that is in no region.
    #[error("{claim} is not inside guest memory or any other one region")]
    Outside {
        /// The claim.
        claim: Extent,
    },
    /// A row that ends before it starts, or before address 0.
    #[error("`{name}` of {size} bytes does not fit: {reason}")]
    NoRoom {
        /// The row.
        name: &'static str,
        /// Its size in bytes.
        size: u64,
        /// What is in the way.
        reason: &'static str,
    },
    /// The guest has too little memory for what it must hold.
    #[error("Guest memory of {} is too small; the least --mem that works is {}M", Bytes(*.mem), .least >> 20)]
    TooSmall {
        /// Bytes asked for.
        mem: u64,
        /// The least multiple of 1 MiB that works, in bytes.
        least: u64,
        /// What did not fit.
        #[source]
        reason: Box<MapError>,
    },
}

/// Resolves a layout's table into a map.
///
/// The map's regions are disjoint and sorted, as are its claims, each inside one region, and the RAM regions add up to
/// `inputs.mem`. Where more memory would help, the error names the least that does.
pub fn resolve(layout: &Layout, inputs: &Inputs) -> Result<MemoryMap, MapError> {
    let error = match place(layout, inputs) {
        Ok(map) => return Ok(map),
        Err(error) => error,
    };
    let memory_may_help = matches!(
        error,
        MapError::Overlap { .. } | MapError::Outside { .. } | MapError::NoRoom { .. } | MapError::Granularity { mem: 0 }
    );
    match memory_may_help.then(|| least_memory(layout, inputs)).flatten() {
        Some(least) => Err(MapError::TooSmall { mem: inputs.mem, least, reason: Box::new(error) }),
        None => Err(error),
    }
}

/// The least memory, in bytes, above the present one with which the table resolves.
fn least_memory(layout: &Layout, inputs: &Inputs) -> Option<u64> {
    let works = |steps: u64| place(layout, &Inputs { mem: steps * LEAST_STEP, ..inputs.clone() }).is_ok();
    let (mut fails, mut least) = (inputs.mem / LEAST_STEP, None);
    // Doubling finds a size that works, bisection the least one below it.
    let mut steps = fails + 1;
    while steps <= LEAST_LIMIT / LEAST_STEP && least.is_none() {
        if works(steps) { least = Some(steps) } else { (fails, steps) = (steps, steps * 2) }
    }
    let mut least = least?;
    while least - fails > 1 {
        let middle = fails.midpoint(least);
        if works(middle) { least = middle } else { fails = middle }
    }
    Some(least * LEAST_STEP)
}

fn place(layout: &Layout, inputs: &Inputs) -> Result<MemoryMap, MapError> {
    check(layout, inputs)?;
    let mut placer = Placer { inputs, ram_left: inputs.mem, placed: Vec::with_capacity(layout.rows.len()) };
    for row in layout.rows.iter().filter(|row| applies(row.when, inputs)) {
        placer.place(row)?;
    }
    if placer.ram_left > 0 {
        return Err(MapError::RamWindows { mem: inputs.mem, rest: placer.ram_left });
    }
    let (mut claims, mut regions): (Vec<_>, Vec<_>) =
        placer.placed.into_iter().partition(|extent| extent.kind == Kind::Claim);
    sort_disjoint(&mut regions)?;
    sort_disjoint(&mut claims)?;
    if let Some(claim) = claims.iter().find(|claim| !regions.iter().any(|region| region.contains(claim))) {
        return Err(MapError::Outside { claim: claim.clone() });
    }
    Ok(MemoryMap { arch: layout.arch, layout: layout.name, mem: inputs.mem, regions, claims })
}

fn check(layout: &Layout, inputs: &Inputs) -> Result<(), MapError> {
    if !(32..=52).contains(&inputs.phys_bits) {
        return Err(MapError::PhysBits { bits: inputs.phys_bits });
    }
    if inputs.mem == 0 || !inputs.mem.is_multiple_of(PAGE_SIZE) {
        return Err(MapError::Granularity { mem: inputs.mem });
    }
    let max = layout.max_vcpus.iter().find(|(when, _)| applies(*when, inputs)).map_or(1, |&(_, max)| max);
    if !(1..=max).contains(&inputs.vcpus) {
        return Err(MapError::Vcpus { vcpus: inputs.vcpus, max, layout: layout.name });
    }
    Ok(())
}

fn applies(when: When, inputs: &Inputs) -> bool {
    match when {
        When::Always => true,
        When::Boot(ways) => ways.contains(&inputs.boot),
        When::Gic(gic) => inputs.gic == gic,
        When::Flat(flat) => matches!(inputs.kernel, Some(KernelExtent::Flat { .. })) == flat,
    }
}

fn sort_disjoint(extents: &mut [Extent]) -> Result<(), MapError> {
    extents.sort_by_key(|extent| extent.start);
    match extents.windows(2).find(|pair| pair[0].overlaps(&pair[1])) {
        Some(pair) => Err(MapError::Overlap { first: pair[0].clone(), second: pair[1].clone() }),
        None => Ok(()),
    }
}

struct Placer<'a> {
    inputs: &'a Inputs,
    ram_left: u64,
    placed: Vec<Extent>,
}

impl Placer<'_> {
    fn place(&mut self, row: &Row) -> Result<(), MapError> {
        let range = match (row.size, &self.inputs.kernel) {
            (Size::Kernel, None) => return Ok(()),
            (Size::Kernel, Some(kernel)) => kernel_range(kernel, self.start(row, 0)?, row.name)?,
            _ => {
                let Some(size) = self.size(row)? else { return Ok(()) };
                let start = self.start(row, size)?;
                start..self.end(row, start, size)?
            }
        };
        let limit = 1 << self.inputs.phys_bits;
        if range.end > limit && matches!(row.kind, Kind::Ram | Kind::Shm | Kind::Claim) {
            return Err(self.beyond(row, range.end - range.start, range.end));
        }
        if matches!(row.size, Size::Ram { .. }) {
            self.ram_left -= range.end - range.start;
        }
        let Range { start, end } = range;
        self.placed.push(Extent { name: row.name, start, end, kind: row.kind, reserved: row.reserved });
        Ok(())
    }

    /// The row's size in bytes; none where the row is absent.
    fn size(&self, row: &Row) -> Result<Option<u64>, MapError> {
        let inputs = self.inputs;
        let size = match row.size {
            Size::Bytes(bytes) => bytes,
            Size::Ram { max } => self.ram_left.min(max),
            Size::PerVcpu(bytes) => bytes * u64::from(inputs.vcpus),
            Size::Kernel => 0,
            Size::Initrd => inputs.initrd,
            Size::Firmware => inputs.firmware,
            Size::FirmwareTail { max } => inputs.firmware.min(max),
            Size::Shm => inputs.shm,
            Size::ToLimit => (1_u64 << inputs.phys_bits).saturating_sub(self.start(row, 0)?),
        };
        Ok((size > 0).then_some(size))
    }

    fn start(&self, row: &Row, size: u64) -> Result<u64, MapError> {
        let no_room = |reason| MapError::NoRoom { name: row.name, size, reason };
        match row.base {
            Base::At(address) => Ok(address),
            Base::EndingAt(end) => end.checked_sub(size).ok_or(no_room("it would start below address 0")),
            Base::After { rows, floor } => {
                let ends = self.placed.iter().filter(|extent| rows.contains(&extent.name)).map(|extent| extent.end);
                let after = ends.max().unwrap_or(0).max(floor);
                after.checked_next_multiple_of(row.align).ok_or_else(|| self.beyond(row, size, u64::MAX))
            }
            Base::TopOf(name) => {
                let outer = self.placed.iter().find(|extent| extent.name == name);
                let outer = outer.ok_or(no_room("there is no memory to hold it"))?;
                let end = match row.size {
                    Size::Initrd => outer.end.min(self.inputs.initrd_limit),
                    _ => outer.end,
                };
                let start = end.checked_sub(size).ok_or(no_room("it is larger than the memory below its limit"))?;
                Ok(start / row.align * row.align)
            }
        }
    }

    fn end(&self, row: &Row, start: u64, size: u64) -> Result<u64, MapError> {
        let end = start.checked_add(size).ok_or_else(|| self.beyond(row, size, u64::MAX))?;
        if matches!(row.size, Size::Initrd) {
            let run_end = self.placed.iter().find(|extent| extent.name == "kernel").map_or(0, |kernel| kernel.end);
            let reason = match (start < run_end, end > self.inputs.initrd_limit) {
                (true, _) => "it would start below the end of the memory that the kernel runs in",
                (_, true) => "it would end above the address that the kernel allows",
                _ => return Ok(end),
            };
            return Err(MapError::NoRoom { name: row.name, size, reason });
        }
        Ok(end)
    }

    fn beyond(&self, row: &Row, size: u64, end: u64) -> MapError {
        MapError::AddressLimit { name: row.name, size, end, phys_bits: self.inputs.phys_bits }
    }
}

/// What a kernel occupies from its load address to `run_end`, if the layout wants it at `base`.
fn kernel_range(kernel: &KernelExtent, base: u64, name: &'static str) -> Result<Range<u64>, MapError> {
    let range = match *kernel {
        KernelExtent::BzImage { load_size, pref_address, alignment, init_size } => {
            let run_start = base.checked_next_multiple_of(alignment.max(1)).map(|start| start.max(pref_address));
            let run_end = run_start.and_then(|start| start.checked_add(init_size));
            base.checked_add(load_size).zip(run_end).map(|(load_end, run_end)| base..load_end.max(run_end))
        }
        KernelExtent::Image { text_offset, image_size } => base
            .checked_next_multiple_of(IMAGE_BASE_ALIGN)
            .and_then(|base| base.checked_add(text_offset))
            .and_then(|start| Some(start..start.checked_add(image_size)?)),
        KernelExtent::Flat { size } => base.checked_add(size).map(|end| base..end),
        KernelExtent::Fixed { start, end } => Some(start..end),
    };
    range.filter(|range| range.start < range.end).ok_or(MapError::NoRoom {
        name,
        size: 0,
        reason: "its header's sizes and addresses add up to no range",
    })
}

