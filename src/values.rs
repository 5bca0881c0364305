//! Values of options, as people write them on a command line.

use carpel_arch::Topology;
use carpel_arch::map::{Arch, Boot, ShmRequest};
use carpel_devices::units;

/// Bare numbers below it are too little for a guest as bytes, and up to 512 GiB as the MiB that other monitors take them
/// for.
const LEAST_BARE: u64 = 1 << 19;

/// Parses the size of a guest's memory in bytes.
pub fn memory(text: &str) -> Result<u64, String> {
    if let Some(size) = named(text, &["size", "mem"]) {
        return Err(format!("It is a size alone: {size}"));
    }
    match units::whole_number(text) {
        Some(bytes @ 1..LEAST_BARE) => Err(format!(
            "Without a unit that is {bytes} bytes, too little for a guest (a page is 4096); in MiB it is {bytes}M"
        )),
        _ => units::size(text),
    }
}

/// Parses `N[,sockets=S][,cores=C][,threads=T]`: a number of vCPUs and how they are arranged.
pub fn cpus(text: &str) -> Result<Topology, String> {
    if let Some(count) = named(text, &["boot", "cpus", "num-cores"]) {
        return Err(format!("It is a number of vCPUs alone: {count}"));
    }
    let mut parts = text.split(',');
    let count = number(parts.next().unwrap_or_default())?;
    let (mut sockets, mut cores, mut threads) = (None, None, None);
    for part in parts {
        let (key, value) = part.split_once('=').ok_or(CPUS_HINT)?;
        let level = match key {
            "sockets" => &mut sockets,
            "cores" => &mut cores,
            "threads" => &mut threads,
            _ => return Err(CPUS_HINT.into()),
        };
        *level = Some(number(value)?);
    }
    Topology::new(count, sockets, cores, threads).map_err(|error| error.to_string())
}

const CPUS_HINT: &str = "vCPUs are a whole number, with ,sockets=S, ,cores=C and ,threads=T behind it as wanted";

fn number(text: &str) -> Result<u32, String> {
    units::whole_number(text).and_then(|number| u32::try_from(number).ok()).ok_or_else(|| CPUS_HINT.into())
}

/// The value behind one of these keys at the start, which other monitors want there.
fn named<'a>(text: &'a str, keys: &[&str]) -> Option<&'a str> {
    let (key, value) = text.split(',').next()?.split_once('=')?;
    (keys.contains(&key) && !value.is_empty()).then_some(value)
}

/// Parses the answer to a question.
pub fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("It is yes or no"),
    }
}

/// Parses the name of an architecture.
pub fn architecture(name: &str) -> Result<Arch, String> {
    Arch::from_name(name).ok_or_else(|| format!("The architectures are {}", Arch::ALL.map(Arch::name).join(", ")))
}

/// Parses the name of a way to boot.
pub fn boot(name: &str) -> Result<Boot, String> {
    let ways = Boot::OF_IMAGES;
    let found = ways.into_iter().find(|way| way.name() == name);
    found.ok_or_else(|| format!("The ways to boot are {}", ways.map(Boot::name).join(", ")))
}

/// Parses the version of a GIC.
pub fn gic(version: &str) -> Result<u8, &'static str> {
    match version {
        "2" => Ok(2),
        "3" => Ok(3),
        _ => Err("The versions are 2 and 3"),
    }
}

/// Parses `NAME=SIZE`: a region of shared memory. Which names and sizes there are is the map's to say.
pub fn shm(text: &str) -> Result<ShmRequest, String> {
    let (name, size) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or(SHM_HINT)?;
    Ok(ShmRequest { name: name.to_owned(), size: units::size(size)? })
}

const SHM_HINT: &str = "A region of shared memory is NAME=SIZE, such as cache=1G";

/// Parses a number of address bits. Which numbers there are is the map's to say.
pub fn phys_bits(bits: &str) -> Result<u8, &'static str> {
    let number = units::whole_number(bits).and_then(|bits| u8::try_from(bits).ok());
    number.ok_or("Address bits are a whole number from 32 to 52")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_arranged() {
        assert_eq!(cpus("4"), Ok(Topology { sockets: 1, cores: 4, threads: 1 }));
        assert_eq!(cpus("8,threads=2,sockets=2"), Ok(Topology { sockets: 2, cores: 2, threads: 2 }));
        for wrong in ["", "-1", "+1", "4,", "4,dies=2", "4,cores", "4,cores=x", "4,cores=3", "4294967296", "1.5", "٤"]
        {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_that_nobody_means_is_answered_by_what_is_meant() {
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert_eq!(memory("524288"), Ok(1 << 19));
        for bare in ["1", "512", "4097", "524287"] {
            assert!(memory(bare).unwrap_err().ends_with(&format!("in MiB it is {bare}M")), "{bare}");
        }
        assert_eq!(memory("0"), Ok(0));
        assert_eq!(memory("512K"), Ok(512 << 10));
        assert_eq!(memory("size=512M,shared=on").unwrap_err(), "It is a size alone: 512M");
        assert_eq!(cpus("boot=2,max=4").unwrap_err(), "It is a number of vCPUs alone: 2");
    }
}
