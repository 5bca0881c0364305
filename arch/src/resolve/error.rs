//! Why a table does not resolve.

use thiserror::Error;

use crate::map::{Address, Bytes, Extent, KernelExtent, MissingRow, PAGE_SIZE, RowName, ShmRequest};

/// Why a table has no map for its inputs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// The size of memory is 0 or not made of pages.
    #[error("Guest memory of {mem} bytes is not a positive multiple of {PAGE_SIZE} bytes")]
    Granularity {
        /// Bytes asked for.
        mem: u64,
    },
    /// The table's windows for RAM are used up.
    #[error("Guest memory of {} does not fit: the layout has no place for the last {}", Bytes(*.mem), Bytes(*.rest))]
    RamWindows {
        /// Bytes asked for.
        mem: u64,
        /// Bytes left over.
        rest: u64,
    },
    /// RAM or shared memory that would need an address beyond the guest physical address space.
    #[error(
        "`{name}` of {} would end at {}, beyond the limit of {phys_bits} guest physical address bits ({})",
        Bytes(*.size), Address(*.end), Address(1 << *.phys_bits)
    )]
    AddressLimit {
        /// The region.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// Where it would end, exclusive; saturated.
        end: u64,
        /// The limit in bits, 32 to 52.
        phys_bits: u8,
    },
    /// A region of shared memory that is not made of pages.
    #[error("Shared memory `{name}` of {size} bytes is not a positive multiple of {PAGE_SIZE} bytes")]
    ShmSize {
        /// The region.
        name: String,
        /// Bytes asked for.
        size: u64,
    },
    /// A region of shared memory whose name would not be told from what is around it.
    #[error(
        "Shared memory cannot be called `{}`: a name is 1 to {} letters, digits, `-`, `_` and `.`",
        .name.escape_debug(), ShmRequest::NAME_MAX
    )]
    ShmName {
        /// The name asked for.
        name: String,
    },
    /// A region of shared memory with another one's name, or a row's.
    #[error("Shared memory cannot be called `{name}`: the `{layout}` map has that name already")]
    ShmNameTaken {
        /// The name asked for.
        name: String,
        /// The layout.
        layout: &'static str,
    },
    /// The number of address bits is none that these architectures have.
    #[error("{bits} guest physical address bits are not in the range of 32 to 52")]
    PhysBits {
        /// What was asked for.
        bits: u8,
    },
    /// More or fewer vCPUs than the layout has room for.
    #[error("{vcpus} vCPUs are not in the range of 1 to {max} that the `{layout}` layout has room for")]
    Vcpus {
        /// What was asked for.
        vcpus: u32,
        /// The most.
        max: u32,
        /// The layout.
        layout: &'static str,
    },
    /// Two ranges that share an address.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// The lower range.
        first: Extent,
        /// The higher range.
        second: Extent,
    },
    /// A claim that is in no region, or not in one that may hold it.
    #[error("{claim} does not lie inside {}", regions(.within))]
    Outside {
        /// The claim.
        claim: Extent,
        /// The regions that may hold it, any if empty.
        within: &'static [RowName],
    },
    /// A claim that is larger than the regions that may hold it, which are as large whatever the memory.
    #[error("`{name}` of {} is larger than {}, which has {}", Bytes(*.size), regions(.within), Bytes(*.room))]
    TooLarge {
        /// The row.
        name: RowName,
        /// Its size in bytes.
        size: u64,
        /// The regions.
        within: &'static [RowName],
        /// The size of the largest in bytes.
        room: u64,
    },
    /// A row that there is no room for where it belongs.
    #[error("`{name}` of {} does not fit: {reason}{}", Bytes(*.size), .limit.map(|limit| format!(", {}", Address(limit))).unwrap_or_default())]
    NoRoom {
        /// The row.
        name: RowName,
        /// Its size in bytes.
        size: u64,
        /// What is in the way.
        reason: &'static str,
        /// Where it must end at most, exclusive, if that is in the way.
        limit: Option<u64>,
    },
    /// A kernel that names addresses below those for kernels.
    #[error("`{name}` at {} would start below {}, the lowest address for kernels", Address(*.start), Address(*.lowest))]
    KernelTooLow {
        /// The row.
        name: RowName,
        /// The lowest address that the kernel names.
        start: u64,
        /// The lowest that is allowed.
        lowest: u64,
    },
    /// A kernel whose sizes and addresses overflow or are empty.
    #[error("The sizes and addresses of `{name}` give no range of addresses: {kernel:?}")]
    KernelExtent {
        /// The row.
        name: RowName,
        /// What the image says.
        kernel: KernelExtent,
    },
    /// The table places a row by another that it has not.
    #[error(transparent)]
    Missing(#[from] MissingRow),
    /// The guest has too little memory for what it must hold.
    #[error("Guest memory of {} is too small; the least --mem that works is {}M", Bytes(*.mem), .least >> 20)]
    TooSmall {
        /// Bytes asked for.
        mem: u64,
        /// The least multiple of 1 MiB that works, in bytes.
        least: u64,
        /// What did not fit.
        #[source]
        reason: Box<MapError>,
    },
}

impl MapError {
    /// Whether more guest memory may help.
    pub(super) fn wants_memory(&self) -> bool {
        matches!(self, Self::Overlap { .. } | Self::Outside { .. } | Self::NoRoom { .. } | Self::Granularity { mem: 0 })
    }
}

fn regions(names: &[RowName]) -> String {
    if names.is_empty() {
        return "any one region".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
}
