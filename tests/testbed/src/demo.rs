//! The demonstration: the distribution's stock kernel under carpel, and somebody who types into its shell.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::arch::{self, Architecture};
use crate::guest::write_initrd;
use crate::host::{Echo, Host, Origin, Output, Step};
use crate::kernel::StockKernel;
use crate::packages::busybox;
use crate::say::{heading, seconds};
use crate::workspace;

/// What is typed.
const COMMANDS: [&str; 6] = [
    "uname -a",
    "grep -m1 -e 'model name' -e 'CPU implementer' /proc/cpuinfo",
    "nproc",
    "free -m",
    "grep RAM /proc/iomem",
    "poweroff -f",
];
const LIMIT: Duration = Duration::from_mins(2);
/// What it needs, and leaves for a person to go on with.
const FILES: [&str; 3] = ["carpel", "kernel", "initrd"];

/// How to show it.
pub struct Wanted {
    /// The QEMU of the emulated host, where it is not to be the usual one.
    pub qemu: Option<Origin>,
    /// What an earlier run left, in this directory, instead of getting it anew.
    pub prepared: Option<PathBuf>,
    /// Show the host's own console too.
    pub verbose: bool,
}

/// Runs it, and prints the guest's own output and the times.
pub fn run(wanted: &Wanted) -> Result<()> {
    let started = Instant::now();
    let arch = arch::native()?;
    let directory = match &wanted.prepared {
        Some(directory) => fs::canonicalize(directory).with_context(|| format!("Finding {}", directory.display()))?,
        None => prepare(arch)?,
    };
    heading("A host");
    let mut host = Host::choose(arch, if wanted.verbose { Echo::Everything } else { Echo::Steps }, wanted.qemu)?;
    for file in FILES {
        host.file(file, &directory.join(file));
    }

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
    println!("\ncarpel, the kernel and the initrd are in {}", directory.display());
    Ok(())
}

/// Gets the files, and puts them where the README says.
fn prepare(arch: &Architecture) -> Result<PathBuf> {
    heading("carpel, built for release");
    let carpel = workspace::carpel(arch)?;
    heading("A kernel and an initrd");
    let stock = StockKernel::obtain(arch)?;
    println!("   the stock kernel {} and busybox", stock.release);
    let directory = workspace::demo();
    fs::create_dir_all(&directory).with_context(|| format!("Creating {}", directory.display()))?;
    let directory = fs::canonicalize(directory)?;
    let [program, kernel, initrd] = FILES.map(|file| directory.join(file));
    for (source, target) in [(&carpel, &program), (&stock.image, &kernel)] {
        // Removed first, since a program that still runs cannot be overwritten.
        let _ = fs::remove_file(target);
        fs::copy(source, target).with_context(|| format!("Writing {}", target.display()))?;
    }
    write_initrd(&initrd, &busybox(arch)?, None)?;
    Ok(directory)
}

/// Types each command when the prompt for it has come, as a person would. In the end it says how long the first prompt took.
const TYPIST: &str = r#"
now() { cut -d' ' -f1 /proc/uptime; }
mkfifo typed
: >shown
begin=$(now)
./carpel run -k kernel -i initrd -m 512M -c 2 -a 'quiet finish=shell' <typed >shown 2>&1 &
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
