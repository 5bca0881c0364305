//! Little-endian fields of a header.

/// A header's bytes. Offsets are constants of a format; reading past the end of the bytes is a bug and panics.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }

    pub fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.field(at))
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.field(at))
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.field(at))
    }
}
