//! What `carpel map` says, as guests are to see it.

use std::process::Command;

use serde_json::Value;

use crate::guest::finish;

/// The output of `carpel map`.
pub fn map(layout: &str, args: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carpel"));
    let outcome = finish(command.args(["map", "--format", "json", "--layout", layout]).args(args)).expect_status(0);
    serde_json::from_str(&outcome.stdout).expect("The map is JSON")
}

/// Start and end of a named row of the map.
pub fn extent(map: &Value, list: &str, name: &str) -> Option<(u64, u64)> {
    let row = map[list].as_array()?.iter().find(|row| row["name"] == name)?;
    Some((row["start"].as_u64()?, row["end"].as_u64()?))
}

/// The lines that follow from a map: its RAM less the PC's hole below 1 MiB, in which the tables stand as reserved.
pub fn expected_e820(map: &Value) -> Vec<String> {
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    let claim = |name| extent(map, "claims", name).unwrap_or_else(|| panic!("The map names {name}"));
    let (ebda, acpi, mptable) = (claim("ebda"), claim("acpi"), claim("mptable"));
    let low_ram = extent(map, "regions", "low_ram").unwrap();
    let mut rows = vec![
        (low_ram.0, ebda.0, RAM),
        (ebda.0, ebda.1, RESERVED),
        (acpi.0, acpi.1, RESERVED),
        (mptable.0, mptable.1, RESERVED),
        (mptable.1, low_ram.1, RAM),
    ];
    rows.extend(extent(map, "regions", "high_ram").map(|(start, end)| (start, end, RAM)));
    rows.into_iter().map(|(start, end, kind)| format!("{start:#x} {end:#x} {kind}")).collect()
}
