//! Devices under carpel and under QEMU, in one boot of a host: what a program in the guest gets done in a second, and how often
//! the guest is left for it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::linux::{self, QEMU};
use super::load;
use super::table::{Table, median, ratio};
use crate::arch::Architecture;
use crate::guest;
use crate::host::{Echo, Host, Output, Step};
use crate::kernel::StockKernel;
use crate::packages::busybox;
use crate::payload;
use crate::say::heading;

/// Guests of each monitor: two monitors make six, and a host boots ten at most.
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_mins(3);
const MODULES: &[&str] = &["virtio_mmio", "virtio_blk", "virtio_net", "vmw_vsock_virtio_transport"];

/// What is measured: a name, what its count is divided by for the table, the unit of that, and the guest's command.
struct Load {
    key: &'static str,
    name: &'static str,
    per: f64,
    unit: &'static str,
    command: &'static str,
}

const LOADS: &[Load] = &[
    disk("read1", "disk: reads of 4 KiB, one at a time", "read 4096 1"),
    disk("read32", "disk: reads of 4 KiB, 32 at a time", "read 4096 32"),
    disk("write1", "disk: writes of 4 KiB, one at a time", "write 4096 1"),
    disk("write32", "disk: writes of 4 KiB, 32 at a time", "write 4096 32"),
    disk("large_read", "disk: reads of 1 MiB", "read 1048576 1"),
    disk("large_write", "disk: writes of 1 MiB", "write 1048576 1"),
    stream("in", "net: TCP to the guest", "load in tcp:10.0.0.1:7 1.5"),
    stream("out", "net: TCP from the guest", "load out tcp:10.0.0.1:7 1.5"),
    echo("echo", "net: TCP, a byte and back", "load echo tcp:10.0.0.1:7 1.5"),
    stream("vsock_in", "vsock: to the guest", "load in vsock:2:7 1.5"),
    stream("vsock_out", "vsock: from the guest", "load out vsock:2:7 1.5"),
    echo("vsock_echo", "vsock: a byte and back", "load echo vsock:2:7 1.5"),
];

const fn disk(key: &'static str, name: &'static str, command: &'static str) -> Load {
    Load { key, name, per: 1.0, unit: "requests/s", command }
}

const fn stream(key: &'static str, name: &'static str, command: &'static str) -> Load {
    Load { key, name, per: 1e6, unit: "MB/s", command }
}

const fn echo(key: &'static str, name: &'static str, command: &'static str) -> Load {
    Load { key, name, per: 1.0, unit: "round trips/s", command }
}

/// What the guest is left for with nothing to do: between the marks it also starts a program and waits.
const IDLE: &str = "idle";

/// The files on the host are in its memory, so that the devices are measured and not a disk.
const BEFORE: &str = "
[ -e /tmp/disk ] || dd if=/dev/zero of=/tmp/disk bs=1M count=256 2>/dev/null
[ -e /sys/kernel/debug/kvm ] || mount -t debugfs debug /sys/kernel/debug
ip link show carpel0 >/dev/null 2>&1 || {
    tunctl -t carpel0
    ip addr add 10.0.0.1/24 dev carpel0
    ip link set carpel0 up
}
rm -f /tmp/vsock /tmp/vsock_7
for address in tcp:0.0.0.0:7 vsock:2:7 unix:/tmp/vsock_7; do
    ./load serve $address </dev/null >/dev/null 2>&1 &
done
";

/// Counts the exits between the guest's marks. The guest waits at each.
const COUNT: &str = r#"
rm -f shown
mkfifo shown
@COMMAND@ </dev/null >shown 2>errors &
pid=$!
exits() { cat /sys/kernel/debug/kvm/$pid-*/exits; }
while read -r line; do
    case $line in
        *'bench: begin'*) begin=$(exits) ;;
        *'bench: end'*) echo "${line%?}" "$(($(exits) - begin))" ;;
        *) echo "$line" ;;
    esac
done <shown
cat errors
wait $pid
"#;

/// Each monitor's name in the table, and its command.
fn monitors() -> [(&'static str, String); 2] {
    let carpel = "./carpel run -k bzImage -i load.cpio -m 256M -a 'quiet' --disk /tmp/disk --net tap=carpel0 \
                  --vsock cid=3,uds=/tmp/vsock"
        .to_owned();
    let qemu = format!(
        "{QEMU} -M microvm,acpi=on,rtc=on -kernel bzImage -initrd load.cpio -append 'console=ttyS0 panic=-1 quiet' \
         -drive id=disk,if=none,file=/tmp/disk,format=raw,aio=io_uring -object iothread,id=io \
         -device virtio-blk-device,drive=disk,iothread=io \
         -netdev tap,id=net,ifname=carpel0,script=no,downscript=no,vhost=off -device virtio-net-device,netdev=net \
         -device vhost-vsock-device,guest-cid=3"
    );
    [("carpel", carpel), ("QEMU", qemu)]
}

/// The guest's script: each load between marks at which the host counts.
fn script() -> String {
    let set_up = "ip addr add 10.0.0.2/24 dev eth0; ip link set eth0 up; ip link set lo up\n".to_owned();
    let mark = |key: &str, command: &str| {
        format!("echo 'bench: begin'; sleep 0.3; done=$({command}); echo \"bench: end {key} $done \"; sleep 0.3\n")
    };
    let measure = |load: &Load| {
        let command = match load.command.split_once(' ') {
            Some((mode @ ("read" | "write"), rest)) => format!("load disk /dev/vda {mode} {rest} 1.5"),
            _ => load.command.to_owned(),
        };
        mark(load.key, &command)
    };
    let idle = mark(IDLE, "echo 0 0");
    [set_up, idle].into_iter().chain(LOADS.iter().map(measure)).collect()
}

/// Runs the loads in turn under each monitor, and prints the table.
pub fn measure(arch: &'static Architecture, carpel: &Path) -> Result<()> {
    heading(format!("Devices under the stock kernel; {}", load()?));
    let mut host = Host::choose(arch, Echo::Nothing, None)?;
    let stock = StockKernel::obtain(arch)?;
    let scratch = tempfile::tempdir().context("Creating a directory for the initrd")?;
    let initrd = scratch.path().join("load.cpio");
    let mut archive = guest::initrd(&busybox(arch)?);
    archive.modules(stock.modules(MODULES)?).bytes("parts/load", 0o644, script());
    archive.file("bin/load", 0o755, &payload::load()).write(&initrd)?;
    host.file("carpel", carpel).file("bzImage", &stock.image).file("load.cpio", &initrd).file("load", &payload::load());
    linux::give_qemu(&mut host)?;

    let monitors = monitors();
    let mut steps = Vec::new();
    for _ in 0..ROUNDS {
        for (name, command) in &monitors {
            let command = command.replace("quiet", "quiet parts=load finish=poweroff");
            let script = BEFORE.to_owned() + &COUNT.replace("@COMMAND@", &command);
            let check = |output: &Output| {
                let missing = LOADS.iter().find(|load| parse(&output.text, load.key).is_none());
                missing.map_or(Ok(()), |load| Err(anyhow::anyhow!("Nothing was counted of {}", load.name)))
            };
            steps.push(Step { name: (*name).to_owned(), script, limit: LIMIT, guests: 1, check: Box::new(check) });
        }
    }
    let outcomes = host.run(&steps)?;
    ensure!(outcomes.iter().all(|outcome| outcome.verdict.is_ok()), "Not every round came to its end");
    let [ours, theirs] = monitors.map(|(name, _)| {
        let outputs =
            outcomes.iter().filter(|outcome| outcome.name == name).filter_map(|outcome| outcome.output.as_ref());
        outputs.map(|output| output.text.clone()).collect::<Vec<_>>()
    });
    print(&ours, &theirs);
    Ok(())
}

fn print(ours: &[String], theirs: &[String]) {
    let mut table = Table::new(&["medians", "unit", "carpel", "QEMU", "ratio", "exits each: carpel", "QEMU"]);
    for load in LOADS {
        let measured = |texts: &[String]| texts.iter().filter_map(|text| parse(text, load.key)).collect::<Vec<_>>();
        let (ours, theirs) = (measured(ours), measured(theirs));
        let rates = |measured: &[Measured]| measured.iter().map(|one| one.count / one.seconds).collect::<Vec<_>>();
        let exits = |measured: &[Measured]| {
            format!("{:.2}", median(&measured.iter().map(|one| one.exits / one.count * load.per).collect::<Vec<_>>()))
        };
        let shown = |rates: &[f64]| format!("{:.0}", median(rates) / load.per);
        let (our_rates, their_rates) = (rates(&ours), rates(&theirs));
        table.row([
            load.name.to_owned(),
            load.unit.to_owned(),
            shown(&our_rates),
            shown(&their_rates),
            format!("{:.2}", ratio(&our_rates, &their_rates)),
            exits(&ours),
            exits(&theirs),
        ]);
    }
    table.print();
}

/// What one load came to.
#[derive(Debug, PartialEq)]
struct Measured {
    count: f64,
    seconds: f64,
    exits: f64,
}

/// The load's numbers, without the exits that are not its own.
fn parse(text: &str, key: &str) -> Option<Measured> {
    let load = measured(text, key)?;
    let exits = load.exits - measured(text, IDLE)?.exits;
    Some(Measured { exits, ..load })
}

fn measured(text: &str, key: &str) -> Option<Measured> {
    let rest = text.lines().find_map(|line| line.strip_prefix("bench: end ")?.strip_prefix(key)?.strip_prefix(' '))?;
    let mut numbers = rest.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Measured { count: next()?, seconds: next()?, exits: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_needs_its_count_its_time_and_its_exits() {
        let text = "bench: end idle 0 0 200\nbench: end read1 300 1.5 900\nbench: end in  900\n";
        assert_eq!(parse(text, "read1"), Some(Measured { count: 300.0, seconds: 1.5, exits: 700.0 }));
        assert_eq!(parse(text, "in"), None);
        assert_eq!(parse(text, "read"), None);
    }

    #[test]
    fn every_load_is_in_the_guests_script() {
        let script = script();
        assert!(LOADS.iter().all(|load| script.contains(&format!("bench: end {} ", load.key))));
        assert!(script.contains("load disk /dev/vda read 4096 32 1.5"));
    }
}
