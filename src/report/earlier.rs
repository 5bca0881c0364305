//! Reports of an earlier run, which must not be taken for those of one that was refused.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use super::place::{Kind, Place};
use super::{json, junit};

/// How much of a file is looked at, in bytes: more than any report begins with.
const BEGINNING: u64 = 256;

/// Removes what carpel has written to these places. Where a command line is not understood, nothing else tells a report
/// from a file that the run needs.
pub fn remove_earlier<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) {
    for path in paths {
        if let Err(error) = remove(path.as_ref()) {
            log::debug!("Cannot remove {}: {error}", path.as_ref().display());
        }
    }
}

fn remove(named: &Path) -> io::Result<()> {
    let Kind::File(path) = Place::find(named)?.kind else { return Ok(()) };
    let mut beginning = Vec::new();
    File::open(&path)?.take(BEGINNING).read_to_end(&mut beginning)?;
    let is_report = [json::BEGINNING, junit::BEGINNING].iter().any(|start| beginning.starts_with(start.as_bytes()));
    if is_report { fs::remove_file(path) } else { Ok(()) }
}
