//! Compressed kernels: the formats that Linux's own build makes, around any image. Sources: Linux, lib/decompress.c and
//! scripts/Makefile.lib; RFC 1952 (gzip), RFC 8878 (zstd), the .xz, .lzma and LZ4 frame format descriptions.

mod lz4;
mod members;

use std::io::{self, Read as _};

use thiserror::Error;

use super::source::Source;
use members::Members;

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Xz,
    Lz4,
    Zstd,
    Bzip2,
    Lzma,
    Lzo,
}

/// How each starts. That of LZMA, the least distinct, is its usual properties and the low bytes of a dictionary's size.
pub(super) const SIGNATURES: [(&[u8], Compression); 8] = [
    (b"\x1F\x8B\x08", Compression::Gzip),
    (b"\xFD7zXZ\0", Compression::Xz),
    (b"\x02\x21\x4C\x18", Compression::Lz4),
    (b"\x04\x22\x4D\x18", Compression::Lz4),
    (b"\x28\xB5\x2F\xFD", Compression::Zstd),
    (b"BZh", Compression::Bzip2),
    (b"\x5D\0\0", Compression::Lzma),
    (b"\x89LZO\0\r", Compression::Lzo),
];

/// Why a compressed file cannot be unpacked.
#[derive(Debug, Error)]
pub enum DecompressError {
    /// The stream ends early, or is none.
    #[error("It is compressed by {compression}, and the stream is truncated or damaged")]
    Damaged {
        /// The compression.
        compression: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// There is more in it than a guest has room for.
    #[error("It is compressed by {compression} and unpacks to more than the guest's memory of {limit} bytes")]
    TooLarge {
        /// The compression.
        compression: &'static str,
        /// The guest's memory in bytes.
        limit: u64,
    },
    /// There is nothing in it.
    #[error("It is compressed by {compression}, with nothing inside")]
    Empty {
        /// The compression.
        compression: &'static str,
    },
    /// No decoder for it is built in.
    #[error("It is compressed by LZO, which carpel does not unpack: unpack it with `lzop -d`")]
    Lzo,
    /// The host has no memory for what it refers back to.
    #[error("It is compressed by {compression} and refers {window} bytes back, for which there is no memory")]
    Window {
        /// The compression.
        compression: &'static str,
        /// Bytes.
        window: u64,
    },
    /// Reading the file failed.
    #[error("Cannot read it")]
    Read(#[from] io::Error),
}

/// What is inside a compressed file, and any other file as it is.
///
/// A file may consist of several members (frames, streams), whose contents are one; what follows the last and is none is ignored, for Linux's
/// build and signing tools add to compressed files. More than `limit` bytes are never unpacked. One layer is taken off.
pub fn unpack(source: Source, limit: u64) -> Result<Source, DecompressError> {
    match members::find(&source, 0)? {
        Some((compression, at)) => unpack_as(compression, at, &source, limit),
        None => Ok(source),
    }
}

/// Apart from [`unpack`], for the decoders take 56 KiB of stack, which other kernels need not touch.
#[inline(never)]
fn unpack_as(compression: Compression, at: u64, source: &Source, limit: u64) -> Result<Source, DecompressError> {
    let name = compression.name();
    let mut reader = Members::new(compression, at, source, limit)?;
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|source| members::cause(compression, source))?;
    drop(reader);
    log::debug!("{} bytes of {name} are unpacked to {}", source.size(), bytes.len());
    match bytes.len() as u64 {
        0 => Err(DecompressError::Empty { compression: name }),
        size if size > limit => Err(DecompressError::TooLarge { compression: name, limit }),
        _ => Ok(Source::from_vec(bytes)),
    }
}

impl Compression {
    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "LZ4",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "LZMA",
            Self::Lzo => "LZO",
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::io::Write;

    const LIMIT: u64 = 32 << 20;

    /// What repeats and what does not.
    fn image(size: u32) -> Vec<u8> {
        (0..size).map(|i| if i % 3 == 0 { (i.wrapping_mul(0x9E37_79B9) >> 24) as u8 } else { 0 }).collect()
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut packed = b"\x02\x21\x4C\x18".to_vec();
        for block in bytes.chunks(8 << 20) {
            let block = lz4_flex::block::compress(block);
            packed.extend((block.len() as u32).to_le_bytes());
            packed.extend(block);
        }
        packed
    }

    /// The frame that `lz4` writes unless it is told otherwise, and with more of what it can have.
    fn lz4_frame(bytes: &[u8], checksums: bool) -> Vec<u8> {
        use lz4_flex::frame::{BlockMode, FrameEncoder, FrameInfo};
        let info = FrameInfo::new()
            .block_mode(if checksums { BlockMode::Independent } else { BlockMode::Linked })
            .content_size(checksums.then_some(bytes.len() as u64))
            .block_checksums(checksums)
            .content_checksum(checksums);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn lz4_linked(bytes: &[u8]) -> Vec<u8> {
        lz4_frame(bytes, false)
    }

    fn lz4_checked(bytes: &[u8]) -> Vec<u8> {
        lz4_frame(bytes, true)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    fn lzma(bytes: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::LzmaOptions::with_preset(0);
        let mut writer = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    pub type Packer = fn(&[u8]) -> Vec<u8>;

    pub const PACKERS: [(&str, Packer); 8] = [
        ("gzip", gzip),
        ("xz", xz),
        ("LZ4", lz4),
        ("LZ4", lz4_linked),
        ("LZ4", lz4_checked),
        ("zstd", zstd),
        ("bzip2", bzip2),
        ("LZMA", lzma),
    ];

    fn bytes_of(source: &Source) -> Vec<u8> {
        let mut bytes = Vec::new();
        source.reader().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn every_compression_gives_back_what_went_in() {
        for (name, pack) in PACKERS {
            // Of LZ4, more than a block.
            let image = image(if name == "LZ4" { 9 << 20 } else { 100_000 });
            let unpacked = unpack(Source::from_bytes(&pack(&image)), LIMIT).unwrap();
            assert!(bytes_of(&unpacked) == image, "{name}");
        }
    }

    /// The packers of formats that have more than one member in a file.
    fn packers_of_members() -> impl Iterator<Item = (&'static str, Packer)> {
        PACKERS.into_iter().filter(|(name, _)| *name != "LZMA")
    }

    #[test]
    fn members_of_a_file_are_one_image() {
        for (name, pack) in packers_of_members() {
            let packed = [pack(b"\x7FELF first, "), pack(b"and the second"), b"\x13\0\0\0".to_vec()].concat();
            let unpacked = unpack(Source::from_bytes(&packed), LIMIT).unwrap();
            assert_eq!(bytes_of(&unpacked), b"\x7FELF first, and the second", "{name}");
        }
        let packed = [lz4(b"one frame of "), lz4_linked(b"either kind")].concat();
        assert_eq!(bytes_of(&unpack(Source::from_bytes(&packed), LIMIT).unwrap()), b"one frame of either kind");
        let padded = [xz(b"a stream, "), vec![0; 8], xz(b"padding, a stream"), vec![0; 4]].concat();
        assert_eq!(bytes_of(&unpack(Source::from_bytes(&padded), LIMIT).unwrap()), b"a stream, padding, a stream");
    }

    #[test]
    fn what_follows_the_last_member_is_ignored() {
        let image = image(100_000);
        // The size that Linux's build adds before 5.17, padding, what signing adds, and words that may be sizes.
        let size = (image.len() as u32).to_le_bytes();
        let signed = [&[1; 700][..], b"~Module signature appended~\n"].concat();
        let followers: [&[u8]; 8] =
            [&size, &[0; 4], &[0; 4096], &signed, b"x", b"more", &[4, 0, 0, 0, 9, 9, 9, 9, 9], &[0xFF; 100]];
        for (name, pack) in PACKERS {
            for follower in followers {
                let packed = [&pack(&image), follower].concat();
                let unpacked = unpack(Source::from_bytes(&packed), LIMIT);
                let unpacked = unpacked.unwrap_or_else(|error| panic!("{name} {follower:?}: {error:?}"));
                assert!(bytes_of(&unpacked) == image, "{name} {follower:?}");
            }
        }
    }

    #[test]
    fn a_legacy_frame_of_full_blocks_ends_with_its_size() {
        let image = image(16 << 20);
        let packed = [lz4(&image), (image.len() as u32).to_le_bytes().to_vec()].concat();
        assert!(bytes_of(&unpack(Source::from_bytes(&packed), LIMIT).unwrap()) == image);
    }

    #[test]
    fn frames_to_be_skipped_are_skipped() {
        let skipped = [&[0x53, 0x2A, 0x4D, 0x18, 5, 0, 0, 0][..], b"notes"].concat();
        for pack in [lz4, lz4_linked, zstd] {
            let packed = [&skipped[..], &pack(b"an "), &skipped, &skipped, &pack(b"image"), &skipped].concat();
            assert_eq!(bytes_of(&unpack(Source::from_bytes(&packed), LIMIT).unwrap()), b"an image");
        }
        for size in 1..skipped.len() {
            let alone = &skipped[..size];
            assert_eq!(bytes_of(&unpack(Source::from_bytes(alone), LIMIT).unwrap()), alone);
        }
    }

    /// A frame of zstd with this window's descriptor, of one stored block.
    fn zstd_frame(window: u8, contents: &[u8]) -> Vec<u8> {
        let header = (contents.len() as u32) << 3 | 1;
        [b"\x28\xB5\x2F\xFD\0", &[window][..], &header.to_le_bytes()[..3], contents].concat()
    }

    #[test]
    fn a_long_window_is_no_larger_than_the_guests_memory() {
        // What `zstd --long=31` writes of a pipe, and the longest that the format has.
        for window in [21 << 3, 31 << 3 | 7] {
            let unpacked = unpack(Source::from_bytes(&zstd_frame(window, b"an image")), LIMIT).unwrap();
            assert_eq!(bytes_of(&unpacked), b"an image");
        }
        let zeros = vec![0; 9 << 20];
        let long = [&b"\x28\xB5\x2F\xFD"[..], &[0b1110_0000], &u64::MAX.to_le_bytes(), &zeros[..40]].concat();
        let error = unpack(Source::from_bytes(&long), LIMIT).unwrap_err();
        assert!(matches!(error, DecompressError::TooLarge { compression: "zstd", limit: LIMIT }), "{error:?}");
    }

    #[test]
    fn what_is_not_compressed_stays_as_it_is() {
        for bytes in [&b"x"[..], b"\x7FELF and so on"] {
            assert_eq!(bytes_of(&unpack(Source::from_bytes(bytes), LIMIT).unwrap()), bytes);
        }
    }

    #[test]
    fn every_truncation_is_one_error() {
        let text: Vec<u8> = (0..80_u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        for (name, pack) in PACKERS {
            let packed = pack(&text);
            // Below that it is not recognised; and between blocks a legacy frame of LZ4's may end.
            for size in 7..packed.len() {
                match unpack(Source::from_bytes(&packed[..size]), LIMIT) {
                    Err(DecompressError::Damaged { compression, .. }) => assert_eq!(compression, name),
                    other => panic!("{name} of {size} bytes: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_guests_memory() {
        const SIZE: u64 = 1 << 20;
        let zeros = vec![0; SIZE as usize];
        for (name, pack) in PACKERS {
            let packed = pack(&zeros);
            assert!(unpack(Source::from_bytes(&packed), SIZE).is_ok(), "{name}");
            let error = unpack(Source::from_bytes(&packed), SIZE - 1).unwrap_err();
            assert!(matches!(error, DecompressError::TooLarge { .. }), "{name}: {error:?}");
        }
    }

    #[test]
    fn a_dictionary_larger_than_the_guests_memory_is_refused() {
        let mut packed = lzma(&[1; 100]);
        packed[1..5].copy_from_slice(&0xF000_0000_u32.to_le_bytes());
        assert!(matches!(unpack(Source::from_bytes(&packed), LIMIT), Err(DecompressError::Damaged { .. })));
    }

    #[test]
    fn nothing_inside_and_lzo_are_told_apart() {
        assert!(matches!(unpack(Source::from_bytes(&gzip(b"")), LIMIT), Err(DecompressError::Empty { .. })));
        let lzo = unpack(Source::from_bytes(b"\x89LZO\0\r\n\x1A\n"), LIMIT).unwrap_err();
        assert!(lzo.to_string().contains("lzop -d"));
    }
}
