//! The members of a compressed file (frames, streams) one after the other, up to its end or to what is no member.

use std::io::{self, BufReader, Chain, Cursor, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::{LzmaReader, XzReader};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::{Compression, DecompressError, SIGNATURES, lz4};
use crate::loader::source::{Reader, Source};

/// Enough to tell every compression by its start, in bytes.
const SIGNATURE_SIZE: usize = 6;
/// A frame that decoders of LZ4 and zstd skip (RFC 8878, section 3.1.2): these three bytes behind a first of 0x50 to 0x5F, then the size of
/// what follows in 4 bytes.
const SKIPPABLE: [u8; 3] = [0x2A, 0x4D, 0x18];
const SKIPPABLE_HEADER: u64 = 8;

/// A decoder of one member.
pub(super) trait Member: Read {
    /// Where the member ended in the file, in bytes, once all of it was read.
    fn end(self: Box<Self>) -> u64;
}

/// The contents of a file's members.
pub(super) struct Members<'a> {
    compression: Compression,
    source: &'a Source,
    limit: u64,
    /// None once the last has ended.
    current: Option<Box<dyn Member + 'a>>,
}

impl<'a> Members<'a> {
    /// The members from the one at `at` bytes into the file on, of which no more than `limit` bytes are wanted.
    pub(super) fn new(
        compression: Compression,
        at: u64,
        source: &'a Source,
        limit: u64,
    ) -> Result<Self, DecompressError> {
        Ok(Self { compression, source, limit, current: Some(member(compression, source, at, limit)?) })
    }

    fn next(&self, end: u64) -> io::Result<Option<Box<dyn Member + 'a>>> {
        match find(self.source, end)? {
            Some((compression, at)) if compression == self.compression => {
                member(compression, self.source, at, self.limit).map(Some).map_err(io::Error::other)
            }
            _ => Ok(None),
        }
    }
}

impl Read for Members<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(mut member) = self.current.take() {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                self.current = Some(member);
                return Ok(count);
            }
            self.current = self.next(member.end())?;
        }
        Ok(0)
    }
}

/// What an error while reading is: of a later member it may be one of ours.
pub(super) fn cause(compression: Compression, error: io::Error) -> DecompressError {
    error.downcast().unwrap_or_else(|source| DecompressError::Damaged { compression: compression.name(), source })
}

/// The member at `at` bytes into the file, behind frames that are skipped and, of xz, behind padding.
pub(super) fn find(source: &Source, mut at: u64) -> io::Result<Option<(Compression, u64)>> {
    loop {
        let mut start = [0; SIGNATURE_SIZE];
        let left = source.size().saturating_sub(at).min(SIGNATURE_SIZE as u64) as usize;
        source.read(at, &mut start[..left])?;
        if let Some(&(_, compression)) = SIGNATURES.iter().find(|(signature, _)| start.starts_with(signature)) {
            return Ok(Some((compression, at)));
        }
        // "Stream Padding" of the .xz format: zeros, a multiple of 4 bytes.
        let is_padding = at > 0 && left >= 4 && start[..4] == [0; 4];
        at = match start {
            [0x50..=0x5F, second, third, fourth, ..]
                if [second, third, fourth] == SKIPPABLE && source.size() - at >= SKIPPABLE_HEADER =>
            {
                let mut size = [0; 4];
                source.read(at + 4, &mut size)?;
                at + SKIPPABLE_HEADER + u64::from(u32::from_le_bytes(size))
            }
            _ if is_padding => match first_word(source, at)? {
                Some(word) => word,
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        if at >= source.size() {
            return Ok(None);
        }
    }
}

/// The first word of 4 bytes at or behind `at` that is not 0.
fn first_word(source: &Source, at: u64) -> io::Result<Option<u64>> {
    let mut reader = BufReader::new(source.reader_at(at));
    let mut word = [0; 4];
    let mut at = at;
    while source.size() - at >= 4 {
        reader.read_exact(&mut word)?;
        if word != [0; 4] {
            return Ok(Some(at));
        }
        at += 4;
    }
    Ok(None)
}

/// A decoder of the member at `at`.
fn member<'a>(
    compression: Compression,
    source: &'a Source,
    at: u64,
    limit: u64,
) -> Result<Box<dyn Member + 'a>, DecompressError> {
    let input = Input(BufReader::new(source.reader_at(at)));
    // A decoder may not take more for its dictionary than its output may have.
    let limit_kib = u32::try_from(limit >> 10).unwrap_or(u32::MAX);
    Ok(match compression {
        Compression::Gzip => Box::new(GzDecoder::new(input.0)),
        Compression::Xz => Box::new(XzReader::new_mem_limit(input.0, false, limit_kib)),
        Compression::Bzip2 => Box::new(BzDecoder::new(input.0)),
        Compression::Lz4 => lz4::member(source, at).map_err(|error| cause(compression, error))?,
        Compression::Zstd => Box::new(zstd(source, at, limit)?),
        Compression::Lzma => {
            let decoder = LzmaReader::new_mem_limit(input.0, limit_kib, None);
            Box::new(Lzma { decoder: decoder.map_err(|error| cause(compression, error))?, end: source.size() })
        }
        Compression::Lzo => return Err(DecompressError::Lzo),
    })
}

/// Where a decoder reads from.
struct Input<'a>(BufReader<Reader<'a>>);

impl Input<'_> {
    fn position(&self) -> u64 {
        self.0.get_ref().position() - self.0.buffer().len() as u64
    }
}

impl Member for GzDecoder<BufReader<Reader<'_>>> {
    fn end(self: Box<Self>) -> u64 {
        Input(self.into_inner()).position()
    }
}

impl Member for XzReader<BufReader<Reader<'_>>> {
    fn end(self: Box<Self>) -> u64 {
        Input(self.into_inner()).position()
    }
}

impl Member for BzDecoder<BufReader<Reader<'_>>> {
    fn end(self: Box<Self>) -> u64 {
        Input(self.into_inner()).position()
    }
}

/// LZMA's own format has one stream.
struct Lzma<'a> {
    decoder: LzmaReader<BufReader<Reader<'a>>>,
    end: u64,
}

impl Read for Lzma<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer)
    }
}

impl Member for Lzma<'_> {
    fn end(self: Box<Self>) -> u64 {
        self.end
    }
}

/// A frame of zstd behind a header of ours.
type Zstd<'a> = StreamingDecoder<Chain<Cursor<Vec<u8>>, BufReader<Reader<'a>>>, FrameDecoder>;

impl Member for Zstd<'_> {
    fn end(self: Box<Self>) -> u64 {
        Input(self.into_inner().into_inner().1).position()
    }
}

/// A decoder of a frame of zstd, with a window no larger than what is wanted of it can need: the decoder sets memory aside for a window, and
/// `zstd --long` says 2 GiB of any file whose size it is not told.
fn zstd(source: &Source, at: u64, limit: u64) -> Result<Zstd<'_>, DecompressError> {
    const DESCRIPTOR: usize = 5;
    const SINGLE_SEGMENT: u8 = 1 << 5;
    const LEAST_EXPONENT: u32 = 7;
    const COMPRESSION: Compression = Compression::Zstd;
    let compression = COMPRESSION.name();
    let damaged = |source| DecompressError::Damaged { compression, source };
    let mut header = vec![0; DESCRIPTOR + 1];
    let left = source.size() - at;
    if left < header.len() as u64 {
        return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
    }
    source.read(at, &mut header)?;
    // "Window_Descriptor": an exponent from 2^10 on, and eighths of that to add.
    let exponent = limit.next_power_of_two().trailing_zeros().saturating_sub(10).clamp(LEAST_EXPONENT, 31);
    let most = 1_u64 << (10 + exponent);
    let is_single = header[4] & SINGLE_SEGMENT != 0;
    if is_single {
        if content_size(source, at, header[4])? > limit {
            return Err(DecompressError::TooLarge { compression, limit });
        }
    } else {
        let eighths = u64::from(header[DESCRIPTOR] & 7) + 8;
        let window = (1_u64 << (10 + (header[DESCRIPTOR] >> 3))) / 8 * eighths;
        if window > most {
            header[DESCRIPTOR] = (exponent << 3) as u8;
        }
        let window = window.min(most);
        // A failure of the decoder's own attempt would end the process.
        let room = usize::try_from(window).ok().and_then(|size| Vec::<u8>::new().try_reserve_exact(size).ok());
        room.ok_or(DecompressError::Window { compression, window })?;
    }
    let rest = BufReader::new(source.reader_at(at + header.len() as u64));
    let input = Cursor::new(header).chain(rest);
    StreamingDecoder::new_with_max_window_size(input, most.max(limit)).map_err(|error| damaged(io::Error::other(error)))
}

/// `Frame_Content_Size` of a frame whose descriptor says that it is a single segment: its window is as large.
fn content_size(source: &Source, at: u64, descriptor: u8) -> io::Result<u64> {
    // Behind magic number, descriptor and the dictionary's number, of which there is none in such a frame with a descriptor of 0 to 3.
    let (dictionary, size) =
        ([0, 1, 2, 4][usize::from(descriptor & 3)], [1_u64, 2, 4, 8][usize::from(descriptor >> 6)]);
    let mut bytes = [0; 8];
    let start = at + 5 + dictionary;
    let left = source.size().saturating_sub(start).min(size) as usize;
    source.read(start, &mut bytes[..left])?;
    let value = u64::from_le_bytes(bytes);
    // A size of 2 bytes counts from 256 on.
    Ok(if size == 2 { value + 256 } else { value })
}
