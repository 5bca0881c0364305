//! Structures that point to one another, put together as bytes that go to one guest physical address.

/// Bytes in the making, of known address.
#[derive(Debug)]
pub struct Structures {
    base: u32,
    bytes: Vec<u8>,
}

impl Structures {
    /// Starts with `size` zero bytes at guest physical address `base`, a multiple of 8: the structure that points to
    /// the others.
    pub fn new(base: u32, size: usize) -> Self {
        Self { base, bytes: vec![0; size] }
    }

    /// Sets a field that is already there, at this offset from the base in bytes.
    pub fn set(&mut self, offset: usize, field: &[u8]) {
        self.bytes[offset..offset + field.len()].copy_from_slice(field);
    }

    /// Adds bytes on an 8-byte boundary and returns their guest physical address.
    pub fn add(&mut self, bytes: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let address = self.base + self.bytes.len() as u32;
        self.bytes.extend(bytes);
        address
    }

    /// Adds a text and its final NUL, and returns their guest physical address.
    pub fn add_string(&mut self, text: &str) -> u32 {
        let address = self.add(text.as_bytes());
        self.bytes.push(0);
        address
    }

    /// All of it, to be written to the base.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_lies_where_its_address_says() {
        let mut structures = Structures::new(0x8_0000, 12);
        let text = structures.add_string("text");
        let bytes = structures.add(&[1, 2, 3]);
        structures.set(4, &text.to_le_bytes());
        assert_eq!((text, bytes), (0x8_0010, 0x8_0018));
        let all = structures.into_bytes();
        assert_eq!(all[4..8], 0x8_0010_u32.to_le_bytes());
        assert_eq!(&all[0x10..], b"text\0\0\0\0\x01\x02\x03");
    }
}
