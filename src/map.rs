//! `carpel map`: prints the guest physical map of a configuration.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use carpel_arch::map::{Address, Bytes, Extent, MemoryMap};
use clap::ValueEnum;

use crate::cli::MapArgs;

/// How a map is printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// For reading
    Text,
    /// One JSON object
    Json,
    /// Tables for documentation
    Markdown,
}

/// Resolves the map that the arguments ask for and prints it.
pub fn run(args: &MapArgs) -> Result<()> {
    let map = args.resolve()?;
    let text = match args.format {
        Format::Text => text(&map),
        Format::Json => json(&map)?,
        Format::Markdown => markdown(&map),
    };
    std::io::stdout().write_all(text.as_bytes()).context("Cannot write the map")
}

fn json(map: &MemoryMap) -> Result<String> {
    Ok(serde_json::to_string_pretty(map)? + "\n")
}

fn text(map: &MemoryMap) -> String {
    let mut text = format!("{} {}, {} of RAM\n\n", map.arch, map.layout, Bytes(map.mem));
    let mut line = |indent: &str, extent: &Extent| {
        let Extent { name, start, end, kind, .. } = extent;
        let name = format!("{indent}{name}");
        let (start, end, size) = (Address(*start), Address(*end), Bytes(extent.size()));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{start:>18} {end:>18} {size:>12}  {:8} {name}", kind.name());
    };
    for region in &map.regions {
        line("", region);
        for claim in map.claims.iter().filter(|claim| region.contains(claim)) {
            line("  ", claim);
        }
    }
    text
}

fn markdown(map: &MemoryMap) -> String {
    let table = |extents: &[Extent]| {
        let mut table = String::from("| name | start | end | size | kind |\n| --- | --- | --- | --- | --- |\n");
        for extent in extents {
            let (start, end, size) = (Address(extent.start), Address(extent.end), Bytes(extent.size()));
            let _ = writeln!(table, "| `{}` | {start} | {end} | {size} | {} |", extent.name, extent.kind.name());
        }
        table
    };
    format!(
        "### {} `{}`, {} of RAM\n\n{}\nClaims:\n\n{}",
        map.arch,
        map.layout,
        Bytes(map.mem),
        table(&map.regions),
        table(&map.claims)
    )
}
