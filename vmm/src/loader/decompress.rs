//! Compressed kernels: the formats that Linux's own build makes, around any image. Sources: Linux, lib/decompress.c and
//! scripts/Makefile.lib; RFC 1952 (gzip), RFC 8878 (zstd), the .xz, .lzma and LZ4 frame format descriptions.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::StreamingDecoder;
use thiserror::Error;

use super::source::Source;

/// Enough to tell every compression by its start, in bytes.
const SIGNATURE_SIZE: usize = 6;
/// What every block of LZ4's legacy frame unpacks to at most, in bytes ("Legacy frame").
const LZ4_BLOCK: usize = 8 << 20;

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

/// A gzip member's first byte.
const GZIP_START: u8 = 0x1F;

/// How each starts. That of LZMA, the least distinct, is its usual properties and the low bytes of a dictionary's size.
pub(super) const SIGNATURES: [(&[u8], Compression); 7] = [
    (b"\x1F\x8B\x08", Compression::Gzip),
    (b"\xFD7zXZ\0", Compression::Xz),
    (b"\x02\x21\x4C\x18", Compression::Lz4),
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
    /// Reading the file failed.
    #[error("Cannot read it")]
    Read(#[from] io::Error),
}

/// What is inside a compressed file, and any other file as it is.
///
/// More than `limit` bytes are never unpacked. One layer is taken off.
pub fn unpack(source: Source, limit: u64) -> Result<Source, DecompressError> {
    let start = source.prefix::<SIGNATURE_SIZE>()?;
    let known = SIGNATURES.iter().find(|(signature, _)| start.starts_with(signature));
    match known {
        Some(&(_, compression)) => unpack_as(compression, &source, limit),
        None => Ok(source),
    }
}

/// Apart from [`unpack`], for the decoders take 56 KiB of stack, which other kernels need not touch.
#[inline(never)]
fn unpack_as(compression: Compression, source: &Source, limit: u64) -> Result<Source, DecompressError> {
    let name = compression.name();
    let damaged = |source| DecompressError::Damaged { compression: name, source };
    let mut reader = decoder(compression, source, limit)?.map_err(damaged)?;
    let mut bytes = Vec::new();
    reader.by_ref().take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(damaged)?;
    drop(reader);
    log::debug!("{} bytes of {name} are unpacked to {}", source.size(), bytes.len());
    match bytes.len() as u64 {
        0 => Err(DecompressError::Empty { compression: name }),
        size if size > limit => Err(DecompressError::TooLarge { compression: name, limit }),
        _ => Ok(Source::from_vec(bytes)),
    }
}

type Decoder<'a> = Box<dyn Read + 'a>;

/// A reader of what is inside; the inner result is of those whose header is read at once.
fn decoder(compression: Compression, source: &Source, limit: u64) -> Result<io::Result<Decoder<'_>>, DecompressError> {
    let input = BufReader::new(source.reader());
    // A decoder may not take more for its dictionary than its output may have.
    let limit_kib = u32::try_from(limit >> 10).unwrap_or(u32::MAX);
    Ok(Ok(match compression {
        Compression::Gzip => Box::new(GzipMembers { current: Some(GzDecoder::new(input)) }),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, false, limit_kib)),
        Compression::Lz4 => Box::new(Lz4Legacy::new(input)),
        Compression::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(input)),
        Compression::Zstd => match StreamingDecoder::new(input) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => return Ok(Err(io::Error::other(error))),
        },
        Compression::Lzma => match lzma_rust2::LzmaReader::new_mem_limit(input, limit_kib, None) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => return Ok(Err(error)),
        },
        Compression::Lzo => return Err(DecompressError::Lzo),
    }))
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

/// The members of a gzip file one after the other (RFC 1952, section 2.2), up to its end or to what is no member: the
/// payload of a bzImage is followed by its size.
struct GzipMembers<R> {
    /// None once the last has ended.
    current: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(mut member) = self.current.take() {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                self.current = Some(member);
                return Ok(count);
            }
            let mut input = member.into_inner();
            if input.fill_buf()?.first() == Some(&GZIP_START) {
                self.current = Some(GzDecoder::new(input));
            }
        }
        Ok(0)
    }
}

/// LZ4's legacy frame: its magic number, then blocks with their sizes to the end of the file.
struct Lz4Legacy<R> {
    input: R,
    started: bool,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> Lz4Legacy<R> {
    const fn new(input: R) -> Self {
        Self { input, started: false, block: Vec::new(), at: 0 }
    }

    /// Unpacks the next block; false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut size = [0; 4];
        if !self.started {
            self.input.read_exact(&mut size)?;
            self.started = true;
        }
        let read = self.input.by_ref().take(4).read(&mut size)?;
        if read == 0 {
            return Ok(false);
        }
        self.input.read_exact(&mut size[read..])?;
        let size = u32::from_le_bytes(size) as usize;
        if size > lz4_flex::block::get_maximum_output_size(LZ4_BLOCK) {
            return Err(io::Error::other(format!("A block of {size} bytes is larger than any")));
        }
        let mut packed = vec![0; size];
        self.input.read_exact(&mut packed)?;
        self.block = lz4_flex::block::decompress(&packed, LZ4_BLOCK).map_err(io::Error::other)?;
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for Lz4Legacy<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let size = buffer.len().min(self.block.len() - self.at);
        buffer[..size].copy_from_slice(&self.block[self.at..self.at + size]);
        self.at += size;
        Ok(size)
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
        for block in bytes.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(block);
            packed.extend((block.len() as u32).to_le_bytes());
            packed.extend(block);
        }
        packed
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

    pub const PACKERS: [(&str, Packer); 6] =
        [("gzip", gzip), ("xz", xz), ("LZ4", lz4), ("zstd", zstd), ("bzip2", bzip2), ("LZMA", lzma)];

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

    #[test]
    fn members_of_a_gzip_file_are_one_image() {
        let packed = [gzip(b"\x7FELF first, "), gzip(b""), gzip(b"second"), b"\x13\0\0\0".to_vec()].concat();
        let unpacked = unpack(Source::from_bytes(&packed), LIMIT).unwrap();
        assert_eq!(bytes_of(&unpacked), b"\x7FELF first, second");
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
