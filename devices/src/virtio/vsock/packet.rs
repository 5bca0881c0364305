//! The headers of packets (section 5.10.6).

/// Length of a header in bytes.
pub const HEADER: usize = 44;
/// The host's context identifier (section 5.10.4).
pub const HOST_CID: u64 = 2;
/// The type of stream sockets, the only ones that are offered.
pub const STREAM: u16 = 1;

/// Operations.
pub mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RESET: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const DATA: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of SHUTDOWN: who sends it will receive no more, ...
pub const NO_RECEIVE: u32 = 1 << 0;
/// ... or send no more.
pub const NO_SEND: u32 = 1 << 1;

/// What stands before a packet's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    /// Bytes of data.
    pub length: u32,
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    /// How much the sender can hold of what it receives, in bytes, ...
    pub buf_alloc: u32,
    /// ... and how much it has taken out of there since the connection began, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let number = |at: usize, size: usize| {
            bytes[at..at + size].iter().rev().fold(0, |number: u64, &byte| number << 8 | u64::from(byte))
        };
        Self {
            src_cid: number(0, 8),
            dst_cid: number(8, 8),
            src_port: number(16, 4) as u32,
            dst_port: number(20, 4) as u32,
            length: number(24, 4) as u32,
            kind: number(28, 2) as u16,
            op: number(30, 2) as u16,
            flags: number(32, 4) as u32,
            buf_alloc: number(36, 4) as u32,
            fwd_cnt: number(40, 4) as u32,
        }
    }

    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The refusal of this packet, as whom it was for.
    pub fn refusal(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: op::RESET,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_its_fields_in_their_places() {
        let bytes: [u8; HEADER] = std::array::from_fn(|at| at as u8);
        let header = Header::parse(&bytes);
        assert_eq!((header.src_cid, header.dst_port), (0x0706_0504_0302_0100, 0x1716_1514));
        assert_eq!((header.op, header.fwd_cnt), (0x1F1E, 0x2B2A_2928));
        assert_eq!(header.bytes(), bytes);
    }
}
