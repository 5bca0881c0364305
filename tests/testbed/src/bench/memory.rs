//! How much memory a monitor takes for itself: what it has resident while a guest runs, less the guest's.

use std::fs;
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::monitor::{Guest, Monitor};
use super::start::MIB;
use super::table::Table;

/// A guest that does nothing but exits for as long as it is left alone: nothing in the monitor that is needed at run time
/// stays untouched.
const GUEST: Guest = Guest { payload: "exits", mib: MIB, options: "count=1000000000" };
/// By then the guest runs; starting takes milliseconds.
const SETTLING: Duration = Duration::from_millis(500);
/// The most that a mapping can hold of the guest's memory before the huge pages of the rest begin, in KiB.
const HEAD: u64 = 2048;

/// Measures each monitor once: these numbers are steady.
pub fn measure(monitors: &[&Monitor]) -> Result<()> {
    let mut table = Table::new(&["KiB beyond the guest's memory", "resident", "of it anonymous"]);
    for monitor in monitors {
        let mut child =
            Running(monitor.command(&GUEST)?.spawn().with_context(|| format!("Starting {}", monitor.name))?);
        sleep(SETTLING);
        ensure!(child.0.try_wait()?.is_none(), "{} ended early", monitor.name);
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", child.0.id())).context("Reading its mappings")?;
        let (resident, anonymous) =
            beyond_guest(&mappings(&smaps)).context("The guest's memory is not among its mappings")?;
        table.row([monitor.name.to_owned(), resident.to_string(), anonymous.to_string()]);
    }
    table.print();
    Ok(())
}

/// A monitor whose guest never ends; ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing is left to do here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One mapping of /proc/PID/smaps; sizes are in KiB.
#[derive(Debug, Default)]
struct Mapping {
    start: u64,
    end: u64,
    resident: u64,
    anonymous: u64,
}

/// Resident KiB, and those of them that are no pages of files, outside the guest's memory. That is the largest mapping, and
/// what lies directly below it if that is small enough to be its head in small pages.
fn beyond_guest(mappings: &[Mapping]) -> Option<(u64, u64)> {
    let kib = |mapping: &Mapping| (mapping.end - mapping.start) / 1024;
    let guest = mappings.iter().max_by_key(|mapping| kib(mapping)).filter(|guest| kib(guest) >= MIB * 1024 - HEAD)?;
    let is_head = |mapping: &Mapping| mapping.end == guest.start && kib(mapping) <= HEAD;
    let own = || mappings.iter().filter(|mapping| mapping.start != guest.start && !is_head(mapping));
    Some((own().map(|mapping| mapping.resident).sum(), own().map(|mapping| mapping.anonymous).sum()))
}

/// The mappings in the text of /proc/PID/smaps (proc(5)).
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), second) = (words.next(), words.next()) else { continue };
        let value = || second.and_then(|value| value.parse().ok()).unwrap_or_default();
        match (first, mappings.last_mut()) {
            ("Rss:", Some(mapping)) => mapping.resident = value(),
            ("Anonymous:", Some(mapping)) => mapping.anonymous = value(),
            _ => mappings.extend(range(first).map(|(start, end)| Mapping { start, end, ..Mapping::default() })),
        }
    }
    mappings
}

fn range(word: &str) -> Option<(u64, u64)> {
    let (start, end) = word.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_memory_and_its_head_do_not_count() {
        let smaps = "00400000-00500000 r-xp 00000000 fe:01 1 /bin/monitor\nSize: 1024 kB\nRss: 700 kB\n\
                     Anonymous: 0 kB\n\
                     10000000-10200000 rw-p 00000000 00:00 0\nRss: 90 kB\nAnonymous: 90 kB\n\
                     10200000-18000000 rw-p 00000000 00:00 0\nRss: 4096 kB\nAnonymous: 4096 kB\n\
                     20000000-20001000 rw-p 00000000 00:00 0 [heap]\nRss: 4 kB\nAnonymous: 4 kB\nVmFlags: rd wr\n";
        assert_eq!(beyond_guest(&mappings(smaps)), Some((704, 4)));
        assert_eq!(beyond_guest(&mappings("00400000-00500000 r-xp\nRss: 700 kB\n")), None);
    }
}
