//! The header before each frame (section 5.1.6), judged in both directions: only what was negotiated passes.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE,
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
};

use super::features::has;

/// Bytes of a header. The field `num_buffers` is always there without the legacy interface.
pub const SIZE: usize = 12;
/// Bytes of an Ethernet header, without which there is no frame.
pub const ETHERNET: u64 = 14;
/// Bytes of a VLAN tag, which may stand behind the Ethernet header.
pub const VLAN: u64 = 4;
/// The longest frame: what segmentation offload hands over at once, an IP packet of 16 bits' length.
pub const FRAME_MAX: u64 = ETHERNET + VLAN + u16::MAX as u64;
/// Bytes of a checksum of TCP or UDP.
const CHECKSUM: u64 = 2;

const NEEDS_CSUM: u8 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
const DATA_VALID: u8 = VIRTIO_NET_HDR_F_DATA_VALID as u8;
const NONE: u8 = VIRTIO_NET_HDR_GSO_NONE as u8;
const TCPV4: u8 = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
const TCPV6: u8 = VIRTIO_NET_HDR_GSO_TCPV6 as u8;
const ECN: u8 = VIRTIO_NET_HDR_GSO_ECN as u8;

/// Features that say what one direction may ask of its receiver.
struct Offloads {
    checksum: u32,
    tcpv4: u32,
    tcpv6: u32,
    ecn: u32,
}

const FROM_GUEST: Offloads = Offloads {
    checksum: VIRTIO_NET_F_CSUM,
    tcpv4: VIRTIO_NET_F_HOST_TSO4,
    tcpv6: VIRTIO_NET_F_HOST_TSO6,
    ecn: VIRTIO_NET_F_HOST_ECN,
};
const TO_GUEST: Offloads = Offloads {
    checksum: VIRTIO_NET_F_GUEST_CSUM,
    tcpv4: VIRTIO_NET_F_GUEST_TSO4,
    tcpv6: VIRTIO_NET_F_GUEST_TSO6,
    ecn: VIRTIO_NET_F_GUEST_ECN,
};

/// The header that the tap gets for the driver's, before a frame of so many bytes; none if the driver asks for what was not negotiated or
/// what the frame cannot bear.
pub fn from_guest(bytes: [u8; SIZE], frame: u64, features: u64) -> Option<[u8; SIZE]> {
    let mut header = Header::from_bytes(bytes);
    // Other bits are to be ignored (section 5.1.6.2.2).
    header.flags &= NEEDS_CSUM;
    // The driver's length of the headers is a hint, and past the frame it hints at nothing.
    header.headers_end = header.headers_end.min(frame.try_into().unwrap_or(u16::MAX));
    header.buffers = 0;
    if header.flags & NEEDS_CSUM == 0 {
        (header.checksum_start, header.checksum_offset) = (0, 0);
    }
    if header.gso_type == NONE {
        header.gso_size = 0;
    }
    header.is_sound(frame, features, &FROM_GUEST).then(|| header.to_bytes())
}

/// The header that the driver gets for the tap's, of a frame that lies in so many buffers; none if the frame was queued for
/// a driver that had negotiated more.
pub fn to_guest(bytes: [u8; SIZE], frame: u64, features: u64, buffers: u16) -> Option<[u8; SIZE]> {
    let mut header = Header::from_bytes(bytes);
    header.buffers = buffers;
    header.flags &= NEEDS_CSUM | if has(features, VIRTIO_NET_F_GUEST_CSUM) { DATA_VALID } else { 0 };
    header.is_sound(frame, features, &TO_GUEST).then(|| header.to_bytes())
}

/// Its fields in their order, little-endian in memory.
struct Header {
    flags: u8,
    gso_type: u8,
    headers_end: u16,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
    buffers: u16,
}

impl Header {
    fn from_bytes(bytes: [u8; SIZE]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            headers_end: word(2),
            gso_size: word(4),
            checksum_start: word(6),
            checksum_offset: word(8),
            buffers: word(10),
        }
    }

    fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        let words = [self.headers_end, self.gso_size, self.checksum_start, self.checksum_offset, self.buffers];
        for (place, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn is_sound(&self, frame: u64, features: u64, offloads: &Offloads) -> bool {
        let checksum = self.flags & NEEDS_CSUM != 0;
        let end = u64::from(self.checksum_start) + u64::from(self.checksum_offset) + CHECKSUM;
        if checksum && (!has(features, offloads.checksum) || end > frame) {
            return false;
        }
        let segments = match self.gso_type & !ECN {
            NONE => return self.gso_type == NONE,
            TCPV4 => has(features, offloads.tcpv4),
            TCPV6 => has(features, offloads.tcpv6),
            _ => false,
        };
        // Segments need checksums of their own, so the first one cannot be there yet.
        let ecn = self.gso_type & ECN == 0 || has(features, offloads.ecn);
        segments && ecn && checksum && self.gso_size != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 1 << VIRTIO_NET_F_CSUM
        | 1 << VIRTIO_NET_F_GUEST_CSUM
        | 1 << VIRTIO_NET_F_HOST_TSO4
        | 1 << VIRTIO_NET_F_HOST_TSO6
        | 1 << VIRTIO_NET_F_HOST_ECN
        | 1 << VIRTIO_NET_F_GUEST_TSO4
        | 1 << VIRTIO_NET_F_GUEST_TSO6
        | 1 << VIRTIO_NET_F_GUEST_ECN;

    fn header(flags: u8, gso_type: u8, words: [u16; 5]) -> [u8; SIZE] {
        let [headers_end, gso_size, checksum_start, checksum_offset, buffers] = words;
        Header { flags, gso_type, headers_end, gso_size, checksum_start, checksum_offset, buffers }.to_bytes()
    }

    #[test]
    fn what_is_negotiated_passes() {
        let segments = header(NEEDS_CSUM, TCPV4 | ECN, [54, 1448, 34, 16, 0]);
        assert_eq!(from_guest(segments, 9000, ALL), Some(segments));
        assert_eq!(to_guest(segments, 9000, ALL, 3), Some(header(NEEDS_CSUM, TCPV4 | ECN, [54, 1448, 34, 16, 3])));
        assert_eq!(from_guest([0; SIZE], 60, 0), Some([0; SIZE]));
        assert_eq!(to_guest(header(DATA_VALID, NONE, [0; 5]), 60, ALL, 1).unwrap()[0], DATA_VALID);
    }

    #[test]
    fn each_kind_needs_its_feature() {
        for (flags, gso_type, bits) in [
            (NEEDS_CSUM, NONE, [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM]),
            (NEEDS_CSUM, TCPV4, [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4]),
            (NEEDS_CSUM, TCPV6, [VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6]),
            (NEEDS_CSUM, TCPV4 | ECN, [VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN]),
        ] {
            let header = header(flags, gso_type, [54, 1448, 34, 16, 0]);
            let [from, to] = bits.map(|bit| ALL & !(1 << bit));
            assert!(from_guest(header, 9000, ALL).is_some() && from_guest(header, 9000, from).is_none(), "{gso_type}");
            assert!(to_guest(header, 9000, ALL, 1).is_some() && to_guest(header, 9000, to, 1).is_none(), "{gso_type}");
        }
    }

    #[test]
    fn a_checksum_lies_inside_the_frame() {
        let at = |start, offset| from_guest(header(NEEDS_CSUM, NONE, [0, 0, start, offset, 0]), 60, ALL);
        assert!(at(42, 16).is_some());
        assert!(at(42, 17).is_none());
        assert!(at(u16::MAX, u16::MAX).is_none());
        assert!(at(0, 59).is_none());
    }

    #[test]
    fn what_means_nothing_is_not_handed_on() {
        // Flags of the other direction and of later versions, a hint past the frame, places of a checksum that is not asked for.
        let odd = header(!NEEDS_CSUM, NONE, [u16::MAX, 7, u16::MAX, u16::MAX, 9]);
        assert_eq!(from_guest(odd, 60, ALL), Some(header(0, NONE, [60, 0, 0, 0, 0])));
        assert_eq!(to_guest(header(DATA_VALID, NONE, [0; 5]), 60, 0, 1), Some(header(0, NONE, [0, 0, 0, 0, 1])));
    }

    #[test]
    fn every_combination_of_type_flags_and_features_is_judged() {
        for gso_type in 0..=u8::MAX {
            for flags in 0..8 {
                for features in [0, ALL, 1 << VIRTIO_NET_F_HOST_TSO4, 1 << VIRTIO_NET_F_CSUM] {
                    let passes = from_guest(header(flags, gso_type, [0, 1, 0, 0, 0]), 60, features).is_some();
                    let known = [NONE, TCPV4, TCPV6, TCPV4 | ECN, TCPV6 | ECN].contains(&gso_type);
                    let needs_csum = flags & NEEDS_CSUM != 0;
                    let may = match features {
                        ALL => known && (needs_csum || gso_type == NONE),
                        bits if has(bits, VIRTIO_NET_F_CSUM) => gso_type == NONE,
                        _ => gso_type == NONE && !needs_csum,
                    };
                    assert_eq!(passes, may, "{gso_type:#x} {flags:#x} {features:#x}");
                }
            }
        }
        assert!(from_guest(header(NEEDS_CSUM, TCPV4, [0; 5]), 60, ALL).is_none(), "segments of no size");
    }
}
