//! The demonstration: the distribution's stock kernel under carpel, and somebody who types into its shell.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::arch;
use crate::guest::write_initrd;
use crate::host::{Echo, Host, Step};
use crate::kernel::{StockKernel, busybox};
use crate::say::{heading, seconds};
use crate::workspace;

/// What is typed.
const COMMANDS: [&str; 6] =
    ["uname -a", "grep -m1 'model name' /proc/cpuinfo", "nproc", "free -m", "grep RAM /proc/iomem", "poweroff -f"];
const LIMIT: Duration = Duration::from_mins(2);

/// Runs it, and prints the guest's own output and the times.
pub fn run(verbose: bool) -> Result<()> {
    let started = Instant::now();
    let arch = arch::native()?;
    heading("carpel, built for release");
    let carpel = workspace::carpel(arch)?;
    heading("A kernel, an initrd and a host");
    let mut host = Host::choose(arch, if verbose { Echo::Everything } else { Echo::Steps })?;
    let stock = StockKernel::obtain()?;
    println!("   guest: the stock kernel {} and busybox", stock.release);
    let scratch = tempfile::tempdir().context("Creating a directory for the initrd")?;
    let initrd = scratch.path().join("guest.cpio");
    write_initrd(&initrd, &busybox()?, None)?;
    host.file("carpel", &carpel).file("bzImage", &stock.image).file("guest.cpio", &initrd);

    heading("The guest, as carpel shows it");
    let ready = started.elapsed();
    let outcome = host.run(&[step()])?.pop().context("The demonstration did not run")?;
    let output = outcome.output.unwrap_or_default();
    outcome.verdict?;
    let shell = shell_after(&output.text).context("The guest's shell gave no sign of life")?;
    let all = started.elapsed();
    heading("Times");
    println!("   getting everything ready       {}", seconds(ready));
    println!("   carpel's start to the shell    {shell:.1} s");
    println!("   carpel's start to its end      {:.1} s", output.seconds);
    println!("   all                            {}", seconds(all));
    Ok(())
}

/// Types each command when the prompt for it has come, as a person would.
fn step() -> Step {
    let mut script = String::from(
        "mkfifo typed\n\
         ./carpel run -k bzImage -i guest.cpio -m 512M -c 2 -a 'console=ttyS0 quiet finish=shell' <typed >shown 2>&1 &\n\
         carpel=$!\n\
         exec 3>typed\n\
         tail -n +1 -f shown &\n\
         tail=$!\n\
         prompt() {\n\
             while [ \"$(grep -c '^/ # ' shown)\" -lt \"$1\" ]; do kill -0 $carpel || exit 1; sleep 0.1; done\n\
         }\n\
         begin=$(cut -d' ' -f1 /proc/uptime)\n\
         prompt 1\n\
         shell=$(cut -d' ' -f1 /proc/uptime)\n",
    );
    for (index, command) in COMMANDS.iter().enumerate() {
        let _ = writeln!(script, "prompt {}; echo \"{command}\" >&3", index + 1);
    }
    script.push_str(
        "wait $carpel\n\
         status=$?\n\
         sleep 1\n\
         kill $tail\n\
         echo\n\
         echo \"demo: shell $begin $shell\"\n\
         exit $status\n",
    );
    let check = |output: &crate::host::Output| {
        anyhow::ensure!(output.status == 0, "carpel's exit status is {}", output.status);
        Ok(())
    };
    Step { name: "a shell in the guest".to_owned(), script, limit: LIMIT, guests: 1, check: Box::new(check) }
}

/// Seconds from carpel's start to the shell's first prompt.
fn shell_after(text: &str) -> Option<f64> {
    let times = text.lines().find_map(|line| line.strip_prefix("demo: shell "))?;
    let (begin, shell) = times.split_once(' ')?;
    Some(shell.parse::<f64>().ok()? - begin.parse::<f64>().ok()?)
}
