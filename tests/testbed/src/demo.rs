//! The demonstration: the distribution's stock kernel under carpel, and somebody who types into its shell.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::arch;
use crate::guest::write_initrd;
use crate::host::{Echo, Host, Origin, Output, Step};
use crate::kernel::StockKernel;
use crate::packages::busybox;
use crate::say::{heading, seconds};
use crate::workspace;

/// What is typed.
const COMMANDS: [&str; 6] =
    ["uname -a", "grep -m1 'model name' /proc/cpuinfo", "nproc", "free -m", "grep RAM /proc/iomem", "poweroff -f"];
const LIMIT: Duration = Duration::from_mins(2);

/// Runs it, and prints the guest's own output and the times.
pub fn run(verbose: bool, qemu: Option<Origin>) -> Result<()> {
    let started = Instant::now();
    let arch = arch::native()?;
    heading("carpel, built for release");
    let carpel = workspace::carpel(arch)?;
    heading("A kernel, an initrd and a host");
    let mut host = Host::choose(arch, if verbose { Echo::Everything } else { Echo::Steps }, qemu)?;
    let stock = StockKernel::obtain(arch)?;
    println!("   guest: the stock kernel {} and busybox", stock.release);
    let scratch = tempfile::tempdir().context("Creating a directory for the initrd")?;
    let initrd = scratch.path().join("guest.cpio");
    write_initrd(&initrd, &busybox(arch)?, None)?;
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

/// Types each command when the prompt for it has come, as a person would. In the end it says how long the first prompt took.
const TYPIST: &str = r#"
now() { cut -d' ' -f1 /proc/uptime; }
mkfifo typed
: >shown
begin=$(now)
./carpel run -k bzImage -i guest.cpio -m 512M -c 2 -a 'console=ttyS0 quiet finish=shell' <typed >shown 2>&1 &
carpel=$!
exec 3>typed
tail -n +1 -f shown &
tail=$!
count=0
enter() {
    count=$((count + 1))
    while [ "$(grep -c '^/ # ' shown)" -lt $count ]; do kill -0 $carpel || exit 1; sleep 0.1; done
    [ $count -gt 1 ] || shell=$(now)
    echo "$1" >&3
}
@TYPED@
wait $carpel
status=$?
sleep 1
kill $tail
awk "BEGIN { print \"shell after\", $shell - $begin }"
exit $status
"#;

fn step() -> Step {
    let typed = COMMANDS.map(|command| format!("enter \"{command}\"")).join("\n");
    let check = |output: &Output| {
        ensure!(output.status == 0, "carpel's exit status is {}", output.status);
        Ok(())
    };
    let script = TYPIST.replace("@TYPED@", &typed);
    Step { name: "a shell in the guest".to_owned(), script, limit: LIMIT, guests: 1, check: Box::new(check) }
}

/// Seconds from carpel's start to the shell's first prompt.
fn shell_after(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("shell after "))?.parse().ok()
}
