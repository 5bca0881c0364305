//! Numbers of vCPUs as people write them on a command line.

use carpel_arch::Topology;

/// Parses `N[,sockets=S][,cores=C][,threads=T]`.
pub fn parse(text: &str) -> Result<Topology, String> {
    let mut parts = text.split(',');
    let count = number(parts.next().unwrap_or_default())?;
    let (mut sockets, mut cores, mut threads) = (None, None, None);
    for part in parts {
        let (key, value) = part.split_once('=').ok_or(HINT)?;
        let level = match key {
            "sockets" => &mut sockets,
            "cores" => &mut cores,
            "threads" => &mut threads,
            _ => return Err(HINT.into()),
        };
        *level = Some(number(value)?);
    }
    Topology::new(count, sockets, cores, threads).map_err(|error| error.to_string())
}

const HINT: &str = "vCPUs are a whole number, with ,sockets=S, ,cores=C and ,threads=T behind it as wanted";

/// Digits only: `parse` alone would also take a sign.
fn number(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().ok_or_else(|| HINT.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_arranged() {
        assert_eq!(parse("4"), Ok(Topology { sockets: 1, cores: 4, threads: 1 }));
        assert_eq!(parse("8,threads=2,sockets=2"), Ok(Topology { sockets: 2, cores: 2, threads: 2 }));
        for wrong in ["", "-1", "+1", "4,", "4,dies=2", "4,cores", "4,cores=x", "4,cores=3", "4294967296"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
