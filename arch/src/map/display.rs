//! Maps, addresses and sizes in print.

use std::fmt;

use super::{Extent, MemoryMap};

/// A guest physical address in print: hexadecimal, in groups of four digits.
#[derive(Clone, Copy, Debug)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = [48, 32, 16, 0].map(|shift| (self.0 >> shift) & 0xffff);
        let first = groups.iter().position(|&group| group != 0).unwrap_or(3);
        let tail: Vec<_> = groups[first + 1..].iter().map(|group| format!("_{group:04X}")).collect();
        f.pad(&format!("{:#X}{}", groups[first], tail.concat()))
    }
}

/// A number of bytes in print: the largest power-of-1024 unit that divides it, as in `64 MiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shift, unit) = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|&(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= shift)
            .unwrap_or((0, "B"));
        f.pad(&format!("{} {unit}", self.0 >> shift))
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` at {}-{}", self.label(), Address(self.start), Address(self.end))
    }
}

/// For reading: a heading, then a line for each region, with its claims indented below it.
impl fmt::Display for MemoryMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}, {} of RAM\n", self.arch, self.layout, Bytes(self.mem))?;
        let address_width = self.regions.last().map_or(0, |last| Address(last.end).to_string().len());
        let sizes = self.regions.iter().chain(&self.claims).map(|extent| Bytes(extent.size()).to_string().len());
        let size_width = sizes.max().unwrap_or(0);
        let mut line = |start: &str, end: &str, size: &str, kind: &str, indent: &str, name: &str| {
            writeln!(
                f,
                "{start:>address_width$}  {end:>address_width$}  {size:>size_width$}  {kind:<8}  {indent}{name}"
            )
        };
        line("start", "end", "size", "kind", "", "name")?;
        let mut extent_line = |extent: &Extent, indent| {
            let (start, end, size) = (Address(extent.start), Address(extent.end), Bytes(extent.size()));
            line(&start.to_string(), &end.to_string(), &size.to_string(), extent.kind.name(), indent, extent.label())
        };
        for region in &self.regions {
            extent_line(region, "")?;
            for claim in self.claims.iter().filter(|claim| region.contains(claim)) {
                extent_line(claim, "  ")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_grouped_by_four_digits() {
        let printed = [0, 0x500, 0x10_0000, 0xFEC0_0000, 0x1_0000_0000, u64::MAX].map(|at| Address(at).to_string());
        let expected =
            ["0x0", "0x500", "0x10_0000", "0xFEC0_0000", "0x1_0000_0000", "0xFFFF_FFFF_FFFF_FFFF"].map(String::from);
        assert_eq!(printed, expected);
    }

    #[test]
    fn sizes_are_exact_in_the_largest_unit() {
        let printed = [0, 1, 1536, 0x9_FC00, 64 << 20, (3 << 30) - 4096, 1 << 46].map(|size| Bytes(size).to_string());
        let expected = ["0 B", "1 B", "1536 B", "639 KiB", "64 MiB", "3145724 KiB", "64 TiB"].map(String::from);
        assert_eq!(printed, expected);
    }
}
