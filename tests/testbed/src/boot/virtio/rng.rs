//! The entropy device.

use anyhow::{Context as _, Result, ensure};

use super::{NOTHING, Part};
use crate::guest::said;
use crate::host::Output;

pub const PART: Part = Part {
    name: "rng",
    modules: &["virtio_rng"],
    guest: r#"
echo "guest: rng_current $(cat /sys/class/misc/hw_random/rng_current)"
for i in 1 2; do
    echo "guest: hwrng $(head -c 64 /dev/hwrng | od -An -v -tx1 | tr -d ' \n')"
done
"#,
    check,
    ..NOTHING
};

/// The kernel's entropy source is ours, and gives as many bytes as are read, different ones each time.
fn check(output: &Output) -> Result<()> {
    let current =
        said(&output.text, "rng_current").next().context("The guest did not say where its entropy is from")?;
    ensure!(current.starts_with("virtio_rng"), "The guest's entropy is from {current:?}");
    let reads: Vec<_> = said(&output.text, "hwrng").collect();
    ensure!(reads.len() == 2 && reads.iter().all(|read| read.len() == 128), "The guest read {reads:?}");
    ensure!(reads[0] != reads[1], "The guest read the same bytes twice");
    Ok(())
}
