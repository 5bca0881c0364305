//! What an exit of the guest costs, as the guest sees it.

use std::process::Command;

use anyhow::{Context, Result};

use super::monitor::{Guest, Monitor};
use super::start::MIB;
use super::table::{Table, cell, ratio};
use crate::command::output;
use crate::say::Task;

/// Exits of each kind in one run: enough that neither a timer tick nor the end of the monitor's own start shows.
const GUEST: Guest = Guest { payload: "exits", mib: MIB, options: "count=10000" };

/// Runs the guest that counts cycles around exits, in turn.
pub fn measure(floor: &Monitor, carpel: &Monitor, runs: usize) -> Result<()> {
    let task =
        Task::start(format!("{runs} runs of each with {} of each kind", GUEST.options.replace("count=", "exits ")));
    let mut port = [Vec::new(), Vec::new()];
    let mut mmio = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (index, monitor) in [floor, carpel].into_iter().enumerate() {
            let (of_port, of_mmio) = thousands(&mut monitor.command(&GUEST)?)?;
            port[index].push(of_port);
            mmio[index].push(of_mmio);
        }
    }
    task.done();
    let mut table = Table::new(&["round trip, 1000 cycles: median / minimum", "floor", "carpel", "ratio"]);
    for (name, [of_floor, of_carpel]) in [("port read (serial)", port), ("MMIO read (IOAPIC)", mmio)] {
        let ratio = format!("{:.2}", ratio(&of_carpel, &of_floor));
        table.row([name.to_owned(), cell(&of_floor), cell(&of_carpel), ratio]);
    }
    table.print();
    Ok(())
}

/// Thousands of cycles for a port exit and for an MMIO exit, from the guest's line `port N mmio N cycles per exit`.
fn thousands(command: &mut Command) -> Result<(f64, f64)> {
    let text = output(command)?;
    parse(&text).with_context(|| format!("The guest printed {text:?}"))
}

fn parse(text: &str) -> Option<(f64, f64)> {
    let words: Vec<_> = text.split_whitespace().collect();
    let after = |key: &str| {
        let index = words.iter().position(|&word| word == key)?;
        words.get(index + 1)?.parse::<f64>().ok().map(|cycles| cycles / 1000.0)
    };
    Some((after("port")?, after("mmio")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_line_is_read() {
        assert_eq!(parse("port 1500 mmio 2000 cycles per exit\n"), Some((1.5, 2.0)));
        assert_eq!(parse("port many\n"), None);
    }
}
