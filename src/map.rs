//! `carpel map`: prints the guest physical map of a configuration.

use anyhow::Result;
use carpel_arch::map::{Address, Bytes, Extent, MemoryMap};
use carpel_vmm::loader::Files;
use carpel_vmm::plan::HostFacts;
use clap::ValueEnum;

use crate::cli::MapArgs;
use crate::config;

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

/// Resolves the map that the arguments ask for.
pub fn text(args: &MapArgs) -> Result<String> {
    let config = config::guest(&args.guest, args.arch);
    let assumed = HostFacts::assumed(config.layout()?.arch);
    let host = HostFacts { phys_bits: args.phys_bits.unwrap_or(assumed.phys_bits), ..assumed };
    let map = Files::open(&config)?.probe(&config, host)?.map(&config, &args.shm)?;
    Ok(match args.format {
        Format::Text => map.to_string(),
        Format::Json => serde_json::to_string_pretty(&map)? + "\n",
        Format::Markdown => markdown(&map),
    })
}

fn markdown(map: &MemoryMap) -> String {
    let (arch, layout, mem) = (map.arch, map.layout, Bytes(map.mem));
    let (regions, claims) = (table(&map.regions), table(&map.claims));
    format!("Regions of {arch} `{layout}` with {mem} of RAM:\n\n{regions}\nClaims in them:\n\n{claims}")
}

fn table(extents: &[Extent]) -> String {
    let rows = extents.iter().map(|extent| {
        let (name, Extent { start, end, kind, .. }) = (extent.label(), extent);
        let (start, end, size) = (Address(*start), Address(*end), Bytes(extent.size()));
        format!("| `{name}` | {start} | {end} | {size} | {} |\n", kind.name())
    });
    "| name | start | end | size | kind |\n| --- | --- | --- | --- | --- |\n".to_owned() + &rows.collect::<String>()
}
