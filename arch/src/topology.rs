//! How vCPUs are arranged.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Sockets, the cores of each, the threads of each core. Where that is none at all, the map refuses it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(into = "Cpus", try_from = "Cpus")]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// Why numbers make no topology.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopologyError {
    /// The product is another number.
    #[error("{cpus} vCPUs are not sockets times cores times threads")]
    Product {
        /// vCPUs.
        cpus: u32,
    },
    /// APIC ids tell levels apart by their bits, and here they count without gaps.
    #[error("{count} {what} are not a power of two, as they must be below another level with more than one")]
    PowerOfTwo {
        /// How many.
        count: u32,
        /// Of what.
        what: &'static str,
    },
}

/// A topology in a configuration file: what is not given follows.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Cpus {
    count: u32,
    sockets: Option<u32>,
    cores: Option<u32>,
    threads: Option<u32>,
}

impl From<Topology> for Cpus {
    fn from(topology: Topology) -> Self {
        let Topology { sockets, cores, threads } = topology;
        Self { count: topology.vcpus(), sockets: Some(sockets), cores: Some(cores), threads: Some(threads) }
    }
}

impl TryFrom<Cpus> for Topology {
    type Error = TopologyError;

    fn try_from(cpus: Cpus) -> Result<Self, TopologyError> {
        Self::new(cpus.count, cpus.sockets, cpus.cores, cpus.threads)
    }
}

impl Topology {
    /// Arranges `cpus` vCPUs. What is not given is as large as it must be, cores first, then sockets, and 1 otherwise.
    pub fn new(
        cpus: u32,
        sockets: Option<u32>,
        cores: Option<u32>,
        threads: Option<u32>,
    ) -> Result<Self, TopologyError> {
        let product = TopologyError::Product { cpus };
        let rest = |taken: u32| cpus.checked_div(taken).ok_or(TopologyError::Product { cpus });
        let (sockets, cores, threads) = match (sockets, cores, threads) {
            (None, None, threads) => (1, rest(threads.unwrap_or(1))?, threads.unwrap_or(1)),
            (Some(sockets), None, threads) => {
                let taken = sockets.checked_mul(threads.unwrap_or(1)).ok_or(product.clone())?;
                (sockets, rest(taken)?, threads.unwrap_or(1))
            }
            (None, Some(cores), threads) => {
                let taken = cores.checked_mul(threads.unwrap_or(1)).ok_or(product.clone())?;
                (rest(taken)?, cores, threads.unwrap_or(1))
            }
            (Some(sockets), Some(cores), threads) => {
                let taken = sockets.checked_mul(cores).ok_or(product.clone())?;
                (sockets, cores, threads.map_or_else(|| rest(taken), Ok)?)
            }
        };
        let all = sockets.checked_mul(cores).and_then(|cores| cores.checked_mul(threads));
        if all != Some(cpus) {
            return Err(product);
        }
        for (count, what, above) in [(threads, "threads", sockets * cores), (cores, "cores", sockets)] {
            if above > 1 && !count.is_power_of_two() {
                return Err(TopologyError::PowerOfTwo { count, what });
            }
        }
        Ok(Self { sockets, cores, threads })
    }

    /// How many vCPUs there are.
    pub const fn vcpus(self) -> u32 {
        self.sockets * self.cores * self.threads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged(cpus: u32, sockets: u32, cores: u32, threads: u32) -> Result<[u32; 3], TopologyError> {
        let given = |count| (count > 0).then_some(count);
        let topology = Topology::new(cpus, given(sockets), given(cores), given(threads))?;
        assert_eq!(topology.vcpus(), cpus);
        Ok([topology.sockets, topology.cores, topology.threads])
    }

    #[test]
    fn what_is_not_given_follows() {
        assert_eq!(arranged(3, 0, 0, 0), Ok([1, 3, 1]));
        assert_eq!(arranged(4, 0, 0, 2), Ok([1, 2, 2]));
        assert_eq!(arranged(4, 2, 0, 0), Ok([2, 2, 1]));
        assert_eq!(arranged(8, 2, 0, 2), Ok([2, 2, 2]));
        assert_eq!(arranged(8, 0, 2, 0), Ok([4, 2, 1]));
        assert_eq!(arranged(8, 2, 2, 0), Ok([2, 2, 2]));
        assert_eq!(arranged(6, 3, 1, 2), Ok([3, 1, 2]));
    }

    #[test]
    fn what_does_not_come_out_is_an_error() {
        for (cpus, sockets, cores, threads) in
            [(4, 3, 0, 0), (4, 2, 2, 2), (4, 8, 0, 0), (1, u32::MAX, u32::MAX, 2), (2, 1 << 16, 0, 1 << 16)]
        {
            let error = arranged(cpus, sockets, cores, threads).unwrap_err();
            assert_eq!(error, TopologyError::Product { cpus });
        }
        assert_eq!(arranged(6, 2, 3, 1), Err(TopologyError::PowerOfTwo { count: 3, what: "cores" }));
        assert_eq!(arranged(6, 1, 2, 3), Err(TopologyError::PowerOfTwo { count: 3, what: "threads" }));
    }
}
