//! What a driver asks of a disk (section 5.2.6).

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use super::storage::Disk;
use crate::virtio::chain::Chain;
use crate::virtio::queue::Fault;

/// What sector numbers count, in bytes, whatever the disk's block size.
pub const SECTOR: u64 = 512;
/// Size of a serial number in bytes.
pub const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
/// Size of a request's header: type, reserved, sector.
const HEADER: u64 = 16;

/// A request's last byte as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// It cannot be done.
    Error = VIRTIO_BLK_S_IOERR as u8,
    /// It is nothing that this device does.
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// What is to be done. Offsets and lengths are in bytes and inside the disk.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation {
    Read { offset: u64, length: u64 },
    Write { offset: u64, length: u64 },
    Flush,
    Id,
}

impl Operation {
    /// Reads the request in a chain. The fault is that there is no request or no place for an answer.
    pub fn parse(chain: &Chain, disk: &Disk) -> Result<Result<Self, Refusal>, Fault> {
        let mut header = [0; HEADER as usize];
        if chain.readable().read(0, &mut header)? < header.len() {
            return Err(Fault::Request("A disk request has no header"));
        }
        if chain.writable().is_empty() {
            return Err(Fault::Request("A disk request has no room for its status"));
        }
        let (word, [.., s0, s1, s2, s3, s4, s5, s6, s7]) = ([header[0], header[1], header[2], header[3]], header);
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        Ok(match u32::from_le_bytes(word) {
            VIRTIO_BLK_T_IN => {
                let length = room(chain);
                disk.span(sector, length).map(|offset| Self::Read { offset, length })
            }
            VIRTIO_BLK_T_OUT if disk.read_only => Err(Refusal::Error),
            VIRTIO_BLK_T_OUT => {
                let length = chain.readable().len() - HEADER;
                disk.span(sector, length).map(|offset| Self::Write { offset, length })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Self::Id),
            _ => Err(Refusal::Unsupported),
        })
    }

    /// Does it. The error is what the host says, and was reported.
    pub fn perform(&self, chain: &Chain, disk: &Disk) -> Result<(), Refusal> {
        let result = match *self {
            Self::Read { offset, length } => {
                let slices = chain.writable().slices(0, length);
                slices.map_err(io::Error::other).and_then(|slices| disk.storage.read(&slices, offset))
            }
            Self::Write { offset, length } => {
                let slices = chain.readable().slices(HEADER, length);
                slices.map_err(io::Error::other).and_then(|slices| disk.storage.write(&slices, offset))
            }
            Self::Flush => disk.storage.flush(),
            Self::Id => {
                let id = &disk.id[..room(chain).min(ID_BYTES as u64) as usize];
                chain.writable().write(0, id).map(drop).map_err(io::Error::other)
            }
        };
        result.map_err(|error| {
            disk.report(&self.to_string(), &error);
            Refusal::Error
        })
    }
}

/// As it stands behind "cannot".
impl std::fmt::Display for Operation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read { offset, length } => write!(formatter, "read {length} bytes at {offset:#x}"),
            Self::Write { offset, length } => write!(formatter, "write {length} bytes at {offset:#x}"),
            Self::Flush => formatter.write_str("flush it"),
            Self::Id => formatter.write_str("tell its serial number"),
        }
    }
}

/// How many bytes the answer may have before the status.
pub fn room(chain: &Chain) -> u64 {
    chain.writable().len().saturating_sub(1)
}

impl Disk {
    /// Where so many bytes from a sector on begin, if they are sectors of this disk.
    fn span(&self, sector: u64, length: u64) -> Result<u64, Refusal> {
        let end = sector.checked_add(length / SECTOR).filter(|&end| end <= self.sectors);
        if length.is_multiple_of(SECTOR) && end.is_some() { Ok(sector * SECTOR) } else { Err(Refusal::Error) }
    }
}
