//! The stock kernel under carpel and under QEMU, in one boot of a host: to the initrd's first line, with the exits on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::load;
use super::table::{Table, cell, median, ratio};
use crate::arch::Architecture;
use crate::command::output;
use crate::host::{Echo, Host, Output, Step};
use crate::initramfs::Initramfs;
use crate::kernel::StockKernel;
use crate::packages::busybox;
use crate::say::heading;

/// Guests of each monitor: three monitors make nine, and a host boots ten at most.
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_mins(2);
/// What QEMU's machines read at their start, by name in its directories.
const FIRMWARE: &[&str] =
    &["bios-256k.bin", "bios-microvm.bin", "kvmvapic.bin", "linuxboot_dma.bin", "multiboot_dma.bin", "pvh.bin"];
const FIRMWARE_DIRECTORIES: &[&str] = &["/usr/share/qemu", "/usr/share/seabios"];

/// The guest's first process says that it is there, and waits.
const INIT: &str = "#!/bin/busybox sh\necho 'guest: up'\nexec /bin/busybox sleep 3600\n";

/// QEMU without what the comparison does not need. Its loader and libraries are beside it, for the host has none.
pub(super) const QEMU: &str = "./ld-linux-x86-64.so.2 --library-path . ./qemu-system-x86_64 -L . -accel kvm -cpu host \
                               -m 256M -smp 1 -nodefaults -no-user-config -display none -serial stdio -no-reboot";
/// The guest of QEMU.
const GUEST: &str = "-kernel bzImage -initrd first.cpio -append 'console=ttyS0 panic=-1 quiet'";

/// Each monitor's name in the table, and its command.
fn monitors() -> [(&'static str, String); 3] {
    [
        ("carpel", "./carpel run -k bzImage -i first.cpio -m 256M -a quiet".to_owned()),
        // Without the clock Linux asks 40,000 times for it.
        ("QEMU, `-M microvm,acpi=on,rtc=on`", format!("{QEMU} {GUEST} -M microvm,acpi=on,rtc=on")),
        ("QEMU, `-M pc`", format!("{QEMU} {GUEST} -M pc")),
    ]
}

/// Times a command to the guest's first line, then shows what KVM counted for it.
const SCRIPT: &str = r#"
[ -e /sys/kernel/debug/kvm ] || mount -t debugfs debug /sys/kernel/debug
now() { cut -d' ' -f1 /proc/uptime; }
rm -f shown
mkfifo shown
begin=$(now)
@COMMAND@ </dev/null >shown 2>errors &
pid=$!
exec 3<shown
while read -r line <&3; do
    case $line in *'guest: up'*) up=$(now); break ;; esac
done
cat errors
[ -n "$up" ] || exit 1
echo "bench: time $begin $up"
for counter in exits io_exits mmio_exits pf_fixed; do
    echo "bench: $counter $(cat /sys/kernel/debug/kvm/$pid-*/$counter)"
done
kill $pid
exit 0
"#;

/// What one guest took.
#[derive(Debug, PartialEq)]
struct Boot {
    seconds: f64,
    exits: f64,
    port: f64,
    mmio: f64,
    faults: f64,
}

/// Boots the kernel in turn under each monitor, and prints the table.
pub fn measure(arch: &'static Architecture, carpel: &Path) -> Result<()> {
    heading(format!("The stock kernel to the initrd's first line; {}", load()?));
    let mut host = Host::choose(arch, Echo::Nothing, None)?;
    let stock = StockKernel::obtain(arch)?;
    let scratch = tempfile::tempdir().context("Creating a directory for the initrd")?;
    let initrd = scratch.path().join("first.cpio");
    Initramfs::with_busybox(&busybox(arch)?).bytes("init", 0o755, INIT).write(&initrd)?;
    host.file("carpel", carpel).file("bzImage", &stock.image).file("first.cpio", &initrd);
    give_qemu(&mut host)?;

    let monitors = monitors();
    let mut steps = Vec::new();
    for _ in 0..ROUNDS {
        for (name, command) in &monitors {
            let script = SCRIPT.replace("@COMMAND@", command);
            let check = |output: &Output| {
                ensure!(parse(&output.text).is_some(), "The guest did not come to its first line");
                Ok(())
            };
            steps.push(Step { name: (*name).to_owned(), script, limit: LIMIT, guests: 1, check: Box::new(check) });
        }
    }
    let outcomes = host.run(&steps)?;
    let of = |name: &str| -> Vec<Boot> {
        let outputs =
            outcomes.iter().filter(|outcome| outcome.name == name).filter_map(|outcome| outcome.output.as_ref());
        outputs.filter_map(|output| parse(&output.text)).collect()
    };
    print(&monitors.map(|(name, _)| (name, of(name))))
}

fn print(boots: &[(&str, Vec<Boot>)]) -> Result<()> {
    let mut table = Table::new(&[
        "median (of seconds, also the minimum)",
        "exec to first line, s",
        "ratio",
        "KVM exits",
        "port I/O exits",
        "MMIO exits",
        "page faults",
    ]);
    let column = |boots: &[Boot], of: fn(&Boot) -> f64| boots.iter().map(of).collect::<Vec<_>>();
    let base = column(&boots[0].1, |boot| boot.seconds);
    for (name, boots) in boots {
        ensure!(boots.len() == ROUNDS, "{name} did not come to its end in {} of {ROUNDS} rounds", ROUNDS - boots.len());
        let seconds = column(boots, |boot| boot.seconds);
        let counts: [fn(&Boot) -> f64; 4] = [|boot| boot.exits, |boot| boot.port, |boot| boot.mmio, |boot| boot.faults];
        let counts = counts.iter().map(|&of| format!("{:.0}", median(&column(boots, of))));
        let times = [(*name).to_owned(), cell(&seconds), format!("{:.2}", ratio(&seconds, &base))];
        table.row(times.into_iter().chain(counts));
    }
    table.print();
    Ok(())
}

/// Puts QEMU into the host.
pub(super) fn give_qemu(host: &mut Host) -> Result<()> {
    for file in qemu()? {
        let name = file.file_name().and_then(|name| name.to_str()).context("A library without a name")?.to_owned();
        host.file(&name, &file);
    }
    Ok(())
}

/// QEMU, its libraries with their loader, and its firmware: files of this machine.
fn qemu() -> Result<Vec<PathBuf>> {
    let program = output(Command::new("sh").args(["-c", "command -v qemu-system-x86_64"])).context("Finding QEMU")?;
    let program = PathBuf::from(program.trim());
    let libraries = output(Command::new("ldd").arg(&program))?;
    let mut files = vec![program];
    files.extend(paths(&libraries));
    for name in FIRMWARE {
        let places = FIRMWARE_DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
        files.extend(places.into_iter().find(|file| fs::metadata(file).is_ok()));
    }
    Ok(files)
}

/// The files in the output of ldd: `NAME => FILE (ADDRESS)` or `FILE (ADDRESS)`.
fn paths(ldd: &str) -> impl Iterator<Item = PathBuf> {
    ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from))
}

fn parse(text: &str) -> Option<Boot> {
    let said = |key: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix("bench: ")?.strip_prefix(key)?.strip_prefix(' '))?;
        rest.split(' ').map(|number| number.parse::<f64>().ok()).collect::<Option<Vec<_>>>()
    };
    let count = |key: &str| said(key)?.first().copied();
    let [begin, up] = said("time")?[..] else { return None };
    Some(Boot {
        seconds: up - begin,
        exits: count("exits")?,
        port: count("io_exits")?,
        mmio: count("mmio_exits")?,
        faults: count("pf_fixed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steps_lines_become_numbers() {
        let text = "bench: time 10.5 13.0\nbench: exits 9\nbench: io_exits 4\nbench: mmio_exits 2\nbench: pf_fixed 1\n";
        assert_eq!(parse(text), Some(Boot { seconds: 2.5, exits: 9.0, port: 4.0, mmio: 2.0, faults: 1.0 }));
        assert_eq!(parse("bench: time 10.5 13.0\nbench: exits \n"), None);
    }

    #[test]
    fn ldd_names_libraries_and_their_loader() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibz.so.1 => /lib/libz.so.1 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        let files: Vec<_> = paths(text).collect();
        assert_eq!(files, [PathBuf::from("/lib/libz.so.1"), PathBuf::from("/lib64/ld.so.2")]);
    }
}
