//! What a driver asks of a disk (section 5.2.6).

use std::fmt;
use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::VolatileSlice;

use super::storage::Disk;
use crate::virtio::chain::Chain;
use crate::virtio::queue::Fault;

/// What sector numbers count, in bytes, whatever the disk's block size.
pub const SECTOR: u64 = 512;
/// Size of a serial number in bytes.
pub const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
/// The most segments of a request that discards.
pub const DISCARD_SEGMENTS: u32 = 32;
/// The most sectors of each of them: 1 GiB.
pub const DISCARD_SECTORS: u32 = 1 << 21;
/// The most sectors that one request makes zeros: 64 MiB, which may have to be written.
pub const ZERO_SECTORS: u32 = 1 << 17;
/// Size of a segment: sector, number of sectors, flags.
const SEGMENT: u64 = 16;
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
    Read {
        offset: u64,
        length: u64,
    },
    /// Durable: it is answered when the data is on disk.
    Write {
        offset: u64,
        length: u64,
        durable: bool,
    },
    Flush,
    Id,
    Discard(Vec<Segment>),
    Zero(Segment),
}

/// A range of the disk that is to lose its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    offset: u64,
    length: u64,
    unmap: bool,
}

impl Operation {
    /// Reads the request in a chain; writes are to be `durable` if the driver does not flush. The fault is that there is no
    /// request or no place for an answer.
    pub fn parse(chain: &Chain, disk: &Disk, durable: bool) -> Result<Result<Self, Refusal>, Fault> {
        let mut header = [0; HEADER as usize];
        if chain.readable().read(0, &mut header)? < header.len() {
            return Err(Fault::Request("A disk request has no header"));
        }
        if chain.writable().is_empty() {
            return Err(Fault::Request("A disk request has no room for its status"));
        }
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([k0, k1, k2, k3]);
        let sector = u64::from_le_bytes(sector);
        let payload = chain.readable().len() - HEADER;
        if disk.read_only && matches!(kind, VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) {
            return Ok(Err(Refusal::Error));
        }
        Ok(match kind {
            VIRTIO_BLK_T_IN => {
                let length = room(chain);
                disk.span(sector, length).map(|offset| Self::Read { offset, length })
            }
            VIRTIO_BLK_T_OUT => {
                disk.span(sector, payload).map(|offset| Self::Write { offset, length: payload, durable })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Self::Id),
            VIRTIO_BLK_T_DISCARD => {
                let segments = segments(chain, disk, DISCARD_SEGMENTS, DISCARD_SECTORS)?;
                // To discard without unmapping would be nothing (section 5.2.6.2).
                segments.and_then(|segments| {
                    if segments.iter().any(|segment| segment.unmap) {
                        Err(Refusal::Unsupported)
                    } else {
                        Ok(Self::Discard(segments))
                    }
                })
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let segments = segments(chain, disk, 1, ZERO_SECTORS)?;
                segments.and_then(|segments| segments.first().copied().map(Self::Zero).ok_or(Refusal::Error))
            }
            _ => Err(Refusal::Unsupported),
        })
    }

    /// How many bytes count against the disk's rate: those that pass between disk and guest, and zeros that stand for such.
    pub fn rated(&self) -> u64 {
        match *self {
            Self::Read { length, .. } | Self::Write { length, .. } | Self::Zero(Segment { length, .. }) => length,
            _ => 0,
        }
    }

    /// How many bytes of the answer it has written once it is done, from the first on and without the status.
    pub fn written(&self, chain: &Chain) -> u64 {
        match *self {
            Self::Read { length, .. } => length,
            Self::Id => id_room(chain),
            _ => 0,
        }
    }

    /// Guest memory that is to be transferred.
    pub fn slices<'a>(&self, chain: &'a Chain) -> Result<Vec<VolatileSlice<'a>>, Fault> {
        match *self {
            Self::Read { length, .. } => chain.writable().slices(0, length),
            Self::Write { length, .. } => chain.readable().slices(HEADER, length),
            _ => Ok(Vec::new()),
        }
    }

    /// Does it. The error is what the host says, and was reported.
    pub fn perform(&self, chain: &Chain, disk: &Disk) -> Result<(), Refusal> {
        self.attempt(chain, disk).map_err(|error| {
            let hint = matches!(self, Self::Discard(_)) && error.kind() == io::ErrorKind::Unsupported;
            if hint {
                return Refusal::Unsupported;
            }
            self.report(disk, &error);
            Refusal::Error
        })
    }

    /// Tells the user why it cannot be done.
    pub fn report(&self, disk: &Disk, error: &io::Error) {
        disk.report(&self.to_string(), error);
    }

    fn attempt(&self, chain: &Chain, disk: &Disk) -> io::Result<()> {
        let slices = self.slices(chain).map_err(io::Error::other)?;
        match self {
            Self::Read { offset, .. } => disk.storage.read(&slices, *offset),
            Self::Write { offset, durable, .. } => {
                disk.storage.write(&slices, *offset)?;
                if *durable { disk.storage.flush() } else { Ok(()) }
            }
            Self::Flush => disk.storage.flush(),
            Self::Id => {
                let id = &disk.id[..id_room(chain) as usize];
                chain.writable().write(0, id).map(drop).map_err(io::Error::other)
            }
            Self::Discard(segments) => {
                segments.iter().try_for_each(|segment| disk.storage.discard(segment.offset, segment.length))
            }
            Self::Zero(Segment { offset, length, unmap }) => disk.storage.zero(*offset, *length, *unmap),
        }
    }
}

/// As it stands behind "cannot".
impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { offset, length } => write!(formatter, "read {length} bytes at {offset:#x}"),
            Self::Write { offset, length, .. } => write!(formatter, "write {length} bytes at {offset:#x}"),
            Self::Flush => formatter.write_str("flush it"),
            Self::Id => formatter.write_str("tell its serial number"),
            Self::Discard(segments) => write!(formatter, "discard {} ranges", segments.len()),
            Self::Zero(Segment { offset, length, .. }) => write!(formatter, "zero {length} bytes at {offset:#x}"),
        }
    }
}

/// Reads the segments behind the header: at most so many, of at most so many sectors each.
fn segments(chain: &Chain, disk: &Disk, most: u32, most_sectors: u32) -> Result<Result<Vec<Segment>, Refusal>, Fault> {
    let payload = chain.readable().len() - HEADER;
    if payload == 0 || !payload.is_multiple_of(SEGMENT) || payload / SEGMENT > most.into() {
        return Ok(Err(Refusal::Error));
    }
    let mut bytes = vec![0; payload as usize];
    chain.readable().read(HEADER, &mut bytes)?;
    let (records, _) = bytes.as_chunks::<{ SEGMENT as usize }>();
    Ok(records.iter().map(|record| Segment::parse(record, disk, most_sectors)).collect())
}

impl Segment {
    fn parse(record: &[u8; SEGMENT as usize], disk: &Disk, most_sectors: u32) -> Result<Self, Refusal> {
        let [sector @ .., n0, n1, n2, n3, f0, f1, f2, f3] = *record;
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
            return Err(Refusal::Unsupported);
        }
        if sectors > most_sectors {
            return Err(Refusal::Error);
        }
        let length = u64::from(sectors) * SECTOR;
        let offset = disk.span(u64::from_le_bytes(sector), length)?;
        Ok(Self { offset, length, unmap: flags != 0 })
    }
}

/// How many bytes the answer may have before the status.
pub fn room(chain: &Chain) -> u64 {
    chain.writable().len().saturating_sub(1)
}

/// How many bytes a serial number has room for.
fn id_room(chain: &Chain) -> u64 {
    room(chain).min(ID_BYTES as u64)
}

impl Disk {
    /// Where so many bytes from a sector on begin, if they are whole blocks of this disk.
    fn span(&self, sector: u64, length: u64) -> Result<u64, Refusal> {
        let end = sector.checked_add(length / SECTOR).filter(|&end| end <= self.sectors);
        let whole = sector.is_multiple_of(self.block / SECTOR) && length.is_multiple_of(self.block);
        if whole && end.is_some() { Ok(sector * SECTOR) } else { Err(Refusal::Error) }
    }
}
