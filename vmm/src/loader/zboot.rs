//! EFI zboot images: a compressed Image behind a small EFI program that would unpack it. Source: Linux,
//! drivers/firmware/efi/libstub/zboot-header.S.

use super::error::KernelError;
use super::fields::Fields;
use super::kernel::Format;
use super::source::Source;

/// The header, up to the end of the compression's name.
const HEADER: usize = 56;

/// The compressed Image inside; none if the file is something else. What compresses it is told by its own start.
pub fn payload(source: &Source) -> Result<Option<Source>, KernelError> {
    let start = source.prefix::<HEADER>()?;
    if start[..2] != *b"MZ" || start[4..8] != *b"zimg" {
        return Ok(None);
    }
    let header = Fields(&start);
    let (offset, size) = (u64::from(header.u32(8)), u64::from(header.u32(12)));
    let needed = offset + size;
    if source.size() < needed {
        return Err(KernelError::Truncated { format: "EFI zboot image", size: source.size(), needed });
    }
    if size == 0 {
        return Err(KernelError::unfit(Format::Image, "its EFI zboot header has nothing inside"));
    }
    Ok(source.part(offset, size))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn image(offset: u32, size: u32) -> Vec<u8> {
        let mut image = vec![0; 128];
        image[..2].copy_from_slice(b"MZ");
        image[4..8].copy_from_slice(b"zimg");
        image[8..12].copy_from_slice(&offset.to_le_bytes());
        image[12..16].copy_from_slice(&size.to_le_bytes());
        image[64..68].copy_from_slice(b"data");
        image
    }

    /// A zboot image with this payload.
    pub fn around(payload: &[u8]) -> Vec<u8> {
        let mut header = image(64, payload.len() as u32);
        header.truncate(64);
        [header, payload.to_vec()].concat()
    }

    #[test]
    fn the_payload_is_what_the_header_says() {
        let inside = payload(&Source::from_bytes(&image(64, 4))).unwrap().unwrap();
        assert_eq!((inside.size(), inside.prefix::<4>().unwrap()), (4, *b"data"));
    }

    #[test]
    fn lying_headers_and_other_files_are_told() {
        for (offset, size) in [(64, 0), (64, 65), (u32::MAX, u32::MAX)] {
            assert!(payload(&Source::from_bytes(&image(offset, size))).is_err(), "{offset} {size}");
        }
        assert!(payload(&Source::from_bytes(b"MZ")).unwrap().is_none());
    }
}
