//! The memory balloon: memory that the guest freed is the host's again.

use anyhow::{Context as _, Result, ensure};

use super::{NOTHING, Part};
use crate::guest::said;
use crate::host::Output;

/// Of the 128 MiB that the guest frees, so much must come back, in KiB: Linux reports whole blocks of 2 MiB or more only.
const BACK: u64 = 96 << 10;
/// Pages of the balloon that is asked for.
const PAGES: u64 = 16384;

pub const PART: Part = Part {
    name: "balloon",
    modules: &["virtio_balloon"],
    arguments: "--device balloon,size=64M",
    // Linux reports free pages every 2 seconds, some of them each time.
    // While the balloon still grows, its pages and the file's would lie mixed, and no large block would become free.
    guest: r#"
tries=0
until [ "$(sed -n 's/^balloon_inflate //p' /proc/vmstat)" -ge 16384 ] || [ $tries = 100 ]; do
    tries=$((tries + 1))
    sleep 0.2
done
dd if=/dev/zero of=/big bs=1M count=128 2>/dev/null
echo "guest: balloon used"
sleep 2
rm /big
echo "guest: balloon freed"
sleep 14
echo "guest: ballooned $(sed -n 's/^balloon_inflate //p' /proc/vmstat)"
"#,
    meanwhile: r#"
resident() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$carpel/status"; }
guest_says 'guest: balloon used'
used=$(resident)
guest_says 'guest: balloon freed'
until grep -q 'guest: ballooned' console || [ "$(resident)" -lt "$((used - 98304))" ]; do
    sleep 0.2
done
echo "host: resident $used $(resident)"
"#,
    check,
    ..NOTHING
};

fn check(output: &Output) -> Result<()> {
    let ballooned = said(&output.text, "ballooned").next().context("The guest did not say how large its balloon is")?;
    ensure!(ballooned.parse::<u64>()? >= PAGES, "The guest's balloon has {ballooned} pages");
    let resident = output.text.lines().find_map(|line| line.strip_prefix("host: resident "));
    let resident = resident.context("The host did not say what carpel uses")?;
    let (used, left) = resident.split_once(' ').context("There are two numbers")?;
    let (used, left): (u64, u64) = (used.parse()?, left.parse()?);
    ensure!(used >= left + BACK, "Of {used} KiB, the host still had {left} after the guest freed 128 MiB");
    Ok(())
}
