//! Notes of an ELF file, and what they and its data say of the kernel.

use super::super::fields::Fields;
use super::{Elf, KernelError, MAX_NOTES, Source, read};

/// The owner of Linux's own notes, since 4.19 (Linux, include/linux/elfnote-lto.h and build-salt.h).
const LINUX: &[u8] = b"Linux\0";
/// How Linux's banner begins (Linux, init/version.c).
const BANNER: &[u8] = b"Linux version ";
/// Data is searched in pieces of so many bytes.
const PIECE: usize = 1 << 20;

/// A note: its owner with the final NUL, its type and its description.
pub type Note<'a> = (&'a [u8], u32, &'a [u8]);

/// The notes of a segment. What is cut off counts as absent.
pub struct Notes<'a> {
    rest: &'a [u8],
    align: usize,
}

impl<'a> Notes<'a> {
    /// Each is the sizes of name and description, a type, and then both, aligned to 4 bytes or, where the header says so, to 8.
    pub fn new(segment: &'a [u8], align: u64) -> Self {
        Self { rest: segment, align: if align == 8 { 8 } else { 4 } }
    }
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        const HEADER: usize = 12;
        let notes = self.rest;
        let header = Fields(notes.get(..HEADER)?);
        let (name_size, size, kind) = (header.u32(0) as usize, header.u32(4) as usize, header.u32(8));
        let description = HEADER.checked_add(name_size)?.checked_next_multiple_of(self.align)?;
        let end = description.checked_add(size)?;
        let note = (notes.get(HEADER..HEADER + name_size)?, kind, notes.get(description..end)?);
        // The last one's padding may be missing.
        self.rest = end.checked_next_multiple_of(self.align).and_then(|next| notes.get(next..)).unwrap_or_default();
        Some(note)
    }
}

impl Elf {
    /// What shows that the kernel is Linux; none if nothing does. Its data is looked at only where it has no note of Linux's.
    pub fn linux(&self, source: &Source) -> Result<Option<&'static str>, KernelError> {
        for program in &self.notes {
            let notes = read(source, program.offset, program.file_size.min(MAX_NOTES) as usize)?;
            if Notes::new(&notes, program.align).any(|(owner, ..)| owner == LINUX) {
                return Ok(Some("it has a note of the owner Linux"));
            }
        }
        for program in &self.loads {
            if holds(source, program.offset, program.file_size, BANNER)? {
                return Ok(Some("its data holds `Linux version `"));
            }
        }
        Ok(None)
    }
}

/// Whether a range of the file holds these bytes.
fn holds(source: &Source, offset: u64, size: u64, wanted: &[u8]) -> Result<bool, KernelError> {
    let overlap = wanted.len() - 1;
    let mut done = 0;
    while size - done >= wanted.len() as u64 {
        let piece = read(source, offset + done, (size - done).min((PIECE + overlap) as u64) as usize)?;
        // Not `windows`, which takes many times as long.
        let mut candidates = piece[..piece.len() - overlap].iter().enumerate().filter(|(_, byte)| **byte == wanted[0]);
        if candidates.any(|(at, _)| piece[at..].starts_with(wanted)) {
            return Ok(true);
        }
        done += (piece.len() - overlap) as u64;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{image, with_notes};
    use super::*;
    use crate::loader::Kernel;
    use carpel_arch::map::Arch;

    fn linux(image: &[u8]) -> Option<&'static str> {
        Kernel::probe(Arch::X86_64, &Source::from_bytes(image), None).unwrap().linux
    }

    #[test]
    fn linux_is_told_by_its_note_or_by_its_banner() {
        assert_eq!(linux(&image()), None);
        assert_eq!(linux(&with_notes(&[(b"NetBSD\0", 1, &[7; 4])], 4)), None);
        assert_eq!(linux(&with_notes(&[(b"Linuxulator\0", 1, &[7; 4])], 4)), None);
        for align in [4, 8] {
            let notes: [(&[u8], u32, &[u8]); 2] = [(b"GNU\0", 3, &[7; 20]), (LINUX, 0x100, b"salt\0")];
            assert_eq!(linux(&with_notes(&notes, align)), Some("it has a note of the owner Linux"));
        }
        let mut banner = image();
        let end = banner.len();
        banner[end - 16..end - 2].copy_from_slice(BANNER);
        assert_eq!(linux(&banner), Some("its data holds `Linux version `"));
        // Behind what is loaded it says nothing.
        let mut behind = image();
        behind.extend(BANNER);
        assert_eq!(linux(&behind), None);
    }

    #[test]
    fn a_banner_is_found_wherever_it_stands() {
        let mut bytes = vec![b'L'; 3 * PIECE];
        let size = bytes.len() as u64;
        for at in [0, 1, PIECE - BANNER.len(), PIECE - 5, PIECE, PIECE + 5, 2 * PIECE - 1, bytes.len() - BANNER.len()] {
            bytes[at..at + BANNER.len()].copy_from_slice(BANNER);
            let source = Source::from_bytes(&bytes);
            assert!(holds(&source, 0, size, BANNER).unwrap(), "{at}");
            assert!(!holds(&source, 0, (at + BANNER.len()) as u64 - 1, BANNER).unwrap(), "{at}");
            bytes[at..at + BANNER.len()].fill(b'L');
        }
    }
}
