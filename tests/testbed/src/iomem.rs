//! Comparing what a guest says of its memory with what `carpel map` says.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Addresses below this are a PC's legacy area; Linux on x86 takes 640 KiB to here for ROMs, whatever else it is told.
const MIB: u64 = 0x10_0000;
/// Linux takes the first page of memory from itself (`trim_bios_range` in arch/x86/kernel/setup.c): BIOSes wrote to it.
const FIRST_PAGE: Range<u64> = 0..0x1000;

/// Checks that the guest's "System RAM" in /proc/iomem is the map's RAM, less what Linux reserves for itself.
///
/// `map` is the output of `carpel map --format json` for the same configuration.
pub fn agrees(iomem: &str, map: &str) -> Result<()> {
    let map: Value = serde_json::from_str(map).context("`carpel map` printed no JSON")?;
    let expected = usable(&map)?;
    let seen = system_ram(iomem);
    ensure!(seen == expected, "The guest's System RAM is {}, the map's {}", shown(&seen), shown(&expected));
    Ok(())
}

/// RAM regions less the legacy area (which starts with the EBDA) and Linux's first page.
fn usable(map: &Value) -> Result<Vec<Range<u64>>> {
    let rows = |array: &str| map[array].as_array().cloned().with_context(|| format!("The map has no {array}"));
    let range = |row: &Value| Some(row["start"].as_u64()?..row["end"].as_u64()?);
    let claims = rows("claims")?;
    // Only PCs have one, and with it a legacy area.
    let ebda = claims.iter().find(|claim| claim["name"] == "ebda").and_then(range);

    let mut usable = Vec::new();
    for region in rows("regions")?.iter().filter(|region| region["kind"] == "ram") {
        let region = range(region).context("A region without start and end")?;
        let Some(ebda) = &ebda else {
            usable.push(region);
            continue;
        };
        usable.extend(without(&region, &(ebda.start..MIB)).into_iter().flat_map(|part| without(&part, &FIRST_PAGE)));
    }
    Ok(merged(usable))
}

fn without(range: &Range<u64>, hole: &Range<u64>) -> Vec<Range<u64>> {
    let below = range.start..range.end.min(hole.start);
    let above = range.start.max(hole.end)..range.end;
    [below, above].into_iter().filter(|part| part.start < part.end).collect()
}

/// The top-level ranges of /proc/iomem (whose ends are inclusive) that are called System RAM.
fn system_ram(iomem: &str) -> Vec<Range<u64>> {
    let range = |line: &str| {
        let (addresses, name) = line.split_once(" : ")?;
        let (start, last) = addresses.split_once('-')?;
        let parse = |text| u64::from_str_radix(text, 16).ok();
        (name == "System RAM").then_some(parse(start)?..parse(last)?.checked_add(1)?)
    };
    merged(iomem.lines().filter_map(range).collect())
}

/// Sorted, with adjacent ranges joined: two neighbours are one piece of memory to the guest.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => merged.push(range),
        }
    }
    merged
}

fn shown(ranges: &[Range<u64>]) -> String {
    ranges.iter().map(|range| format!("{:#x}-{:#x}", range.start, range.end)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOMEM: &str = "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n0009fc00-0009ffff : Reserved\n\
                         00100000-bfffffff : System RAM\n  01000000-02ffffff : Kernel code\n\
                         fee00000-fee00fff : Local APIC\n100000000-13fffffff : System RAM\n";

    fn map(low_end: u64) -> String {
        format!(
            r#"{{"regions": [{{"name": "low_ram", "start": 0, "end": {low_end}, "kind": "ram"}},
                {{"name": "pci_hole", "start": 3221225472, "end": 4273995776, "kind": "pci"}},
                {{"name": "high_ram", "start": 4294967296, "end": 5368709120, "kind": "ram"}}],
               "claims": [{{"name": "ebda", "start": 654336, "end": 655360, "kind": "claim"}}]}}"#
        )
    }

    #[test]
    fn a_guest_that_sees_the_maps_memory_agrees() {
        agrees(IOMEM, &map(0xC000_0000)).unwrap();
    }

    #[test]
    fn a_page_too_few_or_a_missing_range_does_not() {
        let err = agrees(IOMEM, &map(0xC000_1000)).unwrap_err().to_string();
        assert!(err.contains("0x100000-0xc0000000") && err.contains("0x100000-0xc0001000"), "{err}");
        let without_high = IOMEM.replace("100000000-13fffffff : System RAM\n", "");
        assert!(agrees(&without_high, &map(0xC000_0000)).is_err());
        assert!(agrees("", &map(0xC000_0000)).is_err());
    }
}
