//! The one place where guest physical addresses are computed.

mod error;

use std::ops::Range;

use crate::map::{
    Base, Extent, Inputs, KernelExtent, Kind, Layout, MemoryMap, PAGE_SIZE, Row, RowName, ShmRequest, Size, When,
};

pub use error::MapError;

/// Alignment of an arm64 or RISC-V Image's base in bytes (Linux, Documentation/arch/arm64/booting.rst).
const IMAGE_BASE_ALIGN: u64 = 2 << 20;
/// The search for the least memory that works looks at multiples of this many bytes ...
const LEAST_STEP: u64 = 1 << 20;
/// ... up to this many: the largest physical address space of the three architectures.
const LEAST_LIMIT: u64 = 1 << 52;

/// Resolves a layout's table into a map.
///
/// The map's regions are disjoint and sorted, as are its claims, each inside one region, and the RAM regions add up to
/// `inputs.mem`. Where more memory would help, the error names the least that does.
pub fn resolve(layout: &Layout, inputs: &Inputs) -> Result<MemoryMap, MapError> {
    place(layout, inputs).map_err(|error| match error.wants_memory().then(|| least_memory(layout, inputs)).flatten() {
        Some(least) => MapError::TooSmall { mem: inputs.mem, least, reason: Box::new(error) },
        None => error,
    })
}

/// The least memory, in bytes, above the present one with which the table resolves.
///
/// With growing memory a table first wants more, then resolves, then runs out of addresses; so bisection finds it.
fn least_memory(layout: &Layout, inputs: &Inputs) -> Option<u64> {
    let at = |steps| place(layout, &Inputs { mem: steps * LEAST_STEP, ..inputs.clone() });
    let (mut fails, mut enough) = (inputs.mem / LEAST_STEP, LEAST_LIMIT / LEAST_STEP);
    while fails + 1 < enough {
        let middle = fails.midpoint(enough);
        if at(middle).is_err_and(|error| error.wants_memory()) { fails = middle } else { enough = middle }
    }
    at(enough).is_ok().then_some(enough * LEAST_STEP)
}

fn place(layout: &Layout, inputs: &Inputs) -> Result<MemoryMap, MapError> {
    check(layout, inputs)?;
    let (arch, layout_name, mem) = (layout.arch, layout.name, inputs.mem);
    let map =
        MemoryMap { arch, layout: layout_name, board: layout.board, mem, regions: Vec::new(), claims: Vec::new() };
    let mut placer = Placer { inputs, ram_left: mem, map };
    for row in layout.rows.iter().filter(|row| applies(row.when, inputs)) {
        placer.place(row)?;
    }
    let Placer { ram_left, mut map, .. } = placer;
    if ram_left > 0 {
        return Err(MapError::RamWindows { mem, rest: ram_left });
    }
    sort_disjoint(&mut map.regions)?;
    sort_disjoint(&mut map.claims)?;
    Ok(map)
}

fn check(layout: &Layout, inputs: &Inputs) -> Result<(), MapError> {
    if !(32..=52).contains(&inputs.phys_bits) {
        return Err(MapError::PhysBits { bits: inputs.phys_bits });
    }
    let max = layout.max_vcpus.iter().find(|(when, _)| applies(*when, inputs)).map_or(1, |&(_, max)| max);
    if !(1..=max).contains(&inputs.vcpus) {
        return Err(MapError::Vcpus { vcpus: inputs.vcpus, max, layout: layout.name });
    }
    if inputs.mem == 0 || !inputs.mem.is_multiple_of(PAGE_SIZE) {
        return Err(MapError::Granularity { mem: inputs.mem });
    }
    check_shm(layout, &inputs.shm)
}

/// Regions of shared memory are whole pages, and a name means one thing in a map.
fn check_shm(layout: &Layout, requests: &[ShmRequest]) -> Result<(), MapError> {
    for (index, ShmRequest { name, size }) in requests.iter().enumerate() {
        let is_row = layout.rows.iter().any(|row| row.kind != Kind::Shm && row.name.name() == name);
        let is_taken = is_row || requests[..index].iter().any(|other| other.name == *name);
        if !ShmRequest::is_name(name) {
            return Err(MapError::ShmName { name: name.clone() });
        }
        if is_taken {
            return Err(MapError::ShmNameTaken { name: name.clone(), layout: layout.name });
        }
        if *size == 0 || !size.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::ShmSize { name: name.clone(), size: *size });
        }
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

/// A map in the making.
struct Placer<'a> {
    inputs: &'a Inputs,
    /// Bytes of guest memory that no region holds yet.
    ram_left: u64,
    map: MemoryMap,
}

impl Placer<'_> {
    fn place(&mut self, row: &Row) -> Result<(), MapError> {
        if matches!(row.size, Size::Shm) {
            return self.inputs.shm.iter().try_for_each(|request| self.place_shm(row, request));
        }
        let Some(Range { start, end }) = self.range(row)? else { return Ok(()) };
        let (name, kind, reserved) = (row.name, row.kind, row.reserved);
        let mut extent = Extent { name, given_name: None, start, end, kind, reserved };
        match row.kind {
            Kind::Claim => {
                let holds = |region: &Extent| row.within.is_empty() || row.within.contains(&region.name);
                let holders = || self.map.regions.iter().filter(|region| holds(region));
                if !holders().any(|region| region.contains(&extent)) {
                    let room = holders().map(Extent::size).max().unwrap_or(0);
                    let fixed = room > 0 && holders().all(|region| region.kind != Kind::Ram);
                    return Err(if fixed && extent.size() > room {
                        MapError::TooLarge { name: row.name, size: extent.size(), within: row.within, room }
                    } else {
                        MapError::Outside { claim: extent, within: row.within }
                    });
                }
                self.map.claims.push(extent);
                return Ok(());
            }
            Kind::Ram if end > self.limit() => return Err(self.beyond(row.name.name(), end - start, end)),
            // What nobody can address needs no device behind it: RAM may end at the limit.
            _ => extent.end = end.min(self.limit()),
        }
        if matches!(row.size, Size::Ram { .. }) {
            self.ram_left -= extent.size();
        }
        if start < extent.end {
            self.map.regions.push(extent);
        }
        Ok(())
    }

    /// Places a region of shared memory behind those that the row has so far.
    fn place_shm(&mut self, row: &Row, request: &ShmRequest) -> Result<(), MapError> {
        let ShmRequest { name, size } = request;
        let first = self.start(row, *size, u64::MAX)?;
        let range = first.max(self.end_of(&[row.name])).checked_next_multiple_of(row.align).and_then(|start| {
            let end = start.checked_add(*size)?;
            Some(start..end)
        });
        let Range { start, end } = range.ok_or_else(|| self.beyond(name, *size, u64::MAX))?;
        if end > self.limit() {
            return Err(self.beyond(name, *size, end));
        }
        let given_name = Some(name.clone());
        self.map.regions.push(Extent { name: row.name, given_name, start, end, kind: row.kind, reserved: false });
        Ok(())
    }

    /// Where the row is to be; none where it is absent.
    fn range(&self, row: &Row) -> Result<Option<Range<u64>>, MapError> {
        let inputs = self.inputs;
        let size = match row.size {
            Size::Bytes(bytes) => bytes,
            Size::Ram { max } => self.ram_left.min(max),
            Size::PerVcpu(bytes) => bytes * u64::from(inputs.vcpus),
            Size::Kernel { lowest } => {
                let base = self.start(row, 0, u64::MAX)?;
                return inputs.kernel.map(|kernel| kernel_range(row.name, kernel, base, lowest)).transpose();
            }
            Size::Initrd => inputs.initrd,
            Size::Firmware => inputs.firmware,
            Size::FirmwareTail { max } => inputs.firmware.min(max),
            // Placed one by one.
            Size::Shm => 0,
            Size::ToLimit => self.limit().saturating_sub(self.start(row, 0, u64::MAX)?),
        };
        if size == 0 {
            return Ok(None);
        }
        let top = if matches!(row.size, Size::Initrd) { inputs.initrd_limit } else { u64::MAX };
        let start = self.start(row, size, top)?;
        let end = start.checked_add(size).ok_or_else(|| self.beyond(row.name.name(), size, u64::MAX))?;
        if end > top {
            return Err(no_room(row, size, "it would end above the address that the kernel allows", Some(top)));
        }
        Ok(Some(start..end))
    }

    fn start(&self, row: &Row, size: u64, top: u64) -> Result<u64, MapError> {
        match row.base {
            Base::At(address) => Ok(address),
            Base::EndingAt(end) => {
                end.checked_sub(size).ok_or(no_room(row, size, "it would start below address 0", None))
            }
            Base::After { rows, floor } => self.after(row, size, rows, floor),
            Base::AfterHalf { rows, of, most } => {
                let region = self.map.need_region(of)?;
                self.after(row, size, rows, region.start + (region.size() / 2).min(most))
            }
            Base::TopOf { row: outer, above } => {
                let outer_end = self.map.need_region(outer)?.end;
                let start = outer_end.min(top).checked_sub(size).map(|start| start / row.align * row.align);
                start.filter(|&start| start >= self.end_of(above)).ok_or(no_room(
                    row,
                    size,
                    "there is too little room between what lies below it and its limit",
                    Some(outer_end.min(top)),
                ))
            }
        }
    }

    /// The row's first aligned address that is neither below the end of one of `rows` nor below `floor`.
    fn after(&self, row: &Row, size: u64, rows: &[RowName], floor: u64) -> Result<u64, MapError> {
        let start = self.end_of(rows).max(floor).checked_next_multiple_of(row.align);
        start.ok_or_else(|| self.beyond(row.name.name(), size, u64::MAX))
    }

    /// Where the last of the rows ends, 0 if none is present.
    fn end_of(&self, rows: &[RowName]) -> u64 {
        let placed = self.map.regions.iter().chain(&self.map.claims);
        placed.filter(|extent| rows.contains(&extent.name)).map(|extent| extent.end).max().unwrap_or(0)
    }

    fn limit(&self) -> u64 {
        1 << self.inputs.phys_bits
    }

    fn beyond(&self, name: &str, size: u64, end: u64) -> MapError {
        MapError::AddressLimit { name: name.to_owned(), size, end, phys_bits: self.inputs.phys_bits }
    }
}

fn no_room(row: &Row, size: u64, reason: &'static str, limit: Option<u64>) -> MapError {
    MapError::NoRoom { name: row.name, size, reason, limit }
}

/// What a kernel occupies from its load address to `run_end`, if the layout wants it at `base`.
fn kernel_range(name: RowName, kernel: KernelExtent, base: u64, lowest: u64) -> Result<Range<u64>, MapError> {
    let range = match kernel {
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
        KernelExtent::Fixed { start, .. } if start < lowest => {
            return Err(MapError::KernelTooLow { name, start, lowest });
        }
        KernelExtent::Fixed { start, end } => Some(start..end),
    };
    range.filter(|range| range.start < range.end).ok_or(MapError::KernelExtent { name, kernel })
}
