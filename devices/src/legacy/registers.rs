//! Accesses to registers of one width, as devices here answer them.

/// Answers a read of a byte-wide register: its value, then ones. `register` is not read when the guest reads nothing.
pub fn answer_byte(data: &mut [u8], register: impl FnOnce() -> u8) {
    if let Some((first, rest)) = data.split_first_mut() {
        *first = register();
        rest.fill(0xff);
    }
}

/// Answers a read of a 32-bit register, little endian, then zeros.
pub fn answer_word(data: &mut [u8], value: u32) {
    data.fill(0);
    data.iter_mut().zip(value.to_le_bytes()).for_each(|(byte, value)| *byte = value);
}

/// What a write gives a 32-bit register: its first four bytes, little endian; a narrower one leaves zeros above.
pub fn word(data: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes.iter_mut().zip(data).for_each(|(byte, value)| *byte = *value);
    u32::from_le_bytes(bytes)
}

/// The identification of an Arm PrimeCell, a byte in each of the registers from 0xFE0 to 0xFFC: `PeriphID0` to 3, then
/// `PCellID0` to 3, which are the same in all of them.
pub const fn primecell_id(offset: u64, periph: [u8; 4]) -> u32 {
    let id = [periph[0], periph[1], periph[2], periph[3], 0x0D, 0xF0, 0x05, 0xB1];
    id[(offset >> 2 & 7) as usize] as u32
}
