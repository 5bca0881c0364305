//! LZ4's frames. Sources: LZ4, doc/lz4_Frame_format.md ("General Structure", "Data Blocks", "Legacy frame"); Linux, lib/decompress_unlz4.c.

use std::io::{self, ErrorKind, Read};

use lz4_flex::frame::FrameDecoder;

use super::members::Member;
use crate::loader::source::{Reader, Source};

/// The magic number of the legacy frame, which `lz4 -l` and Linux's build write.
const LEGACY: [u8; 4] = [0x02, 0x21, 0x4C, 0x18];
/// What every block of the legacy frame unpacks to, in bytes; the last one to less.
const LEGACY_BLOCK: usize = 8 << 20;

/// Flags of a frame (`FLG`), and a block's that it is stored as it is.
const BLOCK_CHECKSUM: u8 = 1 << 4;
const CONTENT_SIZE: u8 = 1 << 3;
const CONTENT_CHECKSUM: u8 = 1 << 2;
const DICTIONARY: u8 = 1 << 0;
const STORED: u32 = 1 << 31;

/// A decoder of the frame at `at` bytes into the file.
pub(super) fn member(source: &Source, at: u64) -> io::Result<Box<dyn Member + '_>> {
    let magic = word(source, at)?.to_le_bytes();
    if magic == LEGACY {
        return Ok(Box::new(Legacy { source, next: at + 4, block: Vec::new(), read: 0, is_last: false }));
    }
    let end = frame_end(source, at)?;
    Ok(Box::new(Frame { decoder: FrameDecoder::new(source.reader_at(at).take(end - at)), end }))
}

/// The little-endian word at `at`, which must lie inside the file.
fn word(source: &Source, at: u64) -> io::Result<u32> {
    let mut bytes = [0; 4];
    if source.size().saturating_sub(at) < bytes.len() as u64 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    source.read(at, &mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Where a frame ends: found by its blocks' sizes, for its decoder takes the file's end for the frame's.
fn frame_end(source: &Source, at: u64) -> io::Result<u64> {
    let flags = word(source, at + 4)?.to_le_bytes()[0];
    let size_of = |flag: u8, size: u64| if flags & flag == 0 { 0 } else { size };
    // Magic number, two bytes of flags, what they announce, and a checksum of that.
    let mut next = at + 4 + 2 + size_of(CONTENT_SIZE, 8) + size_of(DICTIONARY, 4) + 1;
    loop {
        let size = word(source, next)? & !STORED;
        next += 4;
        if size == 0 {
            next += size_of(CONTENT_CHECKSUM, 4);
            return if next > source.size() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(next) };
        }
        next += u64::from(size) + size_of(BLOCK_CHECKSUM, 4);
    }
}

/// A frame.
struct Frame<'a> {
    decoder: FrameDecoder<io::Take<Reader<'a>>>,
    end: u64,
}

impl Read for Frame<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer)
    }
}

impl Member for Frame<'_> {
    fn end(self: Box<Self>) -> u64 {
        self.end
    }
}

/// A legacy frame: its magic number, then blocks with their sizes. Nothing says where it ends but a block that is not full, or what can be no
/// block's size.
struct Legacy<'a> {
    source: &'a Source,
    /// Where the next block starts.
    next: u64,
    block: Vec<u8>,
    /// How much of the block was handed out.
    read: usize,
    is_last: bool,
}

impl Legacy<'_> {
    /// Unpacks the next block; false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let left = self.source.size() - self.next;
        let is_first = self.block.is_empty();
        // 4 bytes at the end are the size that Linux's build adds.
        if self.is_last || !is_first && left <= 4 {
            return Ok(false);
        }
        let size = word(self.source, self.next)? as usize;
        if !(1..=lz4_flex::block::get_maximum_output_size(LEGACY_BLOCK)).contains(&size) {
            return if is_first {
                Err(io::Error::other(format!("A block cannot have {size} bytes")))
            } else {
                Ok(false)
            };
        }
        if left - 4 < size as u64 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let mut packed = vec![0; size];
        self.source.read(self.next + 4, &mut packed)?;
        self.block = lz4_flex::block::decompress(&packed, LEGACY_BLOCK).map_err(io::Error::other)?;
        self.next += 4 + size as u64;
        (self.read, self.is_last) = (0, self.block.len() < LEGACY_BLOCK);
        Ok(true)
    }
}

impl Read for Legacy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let size = buffer.len().min(self.block.len() - self.read);
        buffer[..size].copy_from_slice(&self.block[self.read..self.read + size]);
        self.read += size;
        Ok(size)
    }
}

impl Member for Legacy<'_> {
    fn end(self: Box<Self>) -> u64 {
        self.next
    }
}
