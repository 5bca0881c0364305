//! Multiboot 1 images with address fields.

#![no_main]

use carpel_arch::map::Arch;
use carpel_fuzz::kernel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, image)) = data.split_first() else { return };
    // The checksum is made right: otherwise hardly any input would pass it.
    let mut flags = [0; 4];
    image.iter().zip(&mut flags).for_each(|(byte, flag)| *flag = *byte);
    let checksum = 0_u32.wrapping_sub(0x1BAD_B002).wrapping_sub(u32::from_le_bytes(flags));
    let header = [0x1BAD_B002_u32.to_le_bytes(), flags, checksum.to_le_bytes()].concat();
    let rest = image.get(4..).unwrap_or_default();
    kernel(Arch::X86_64, &[&vec![0; usize::from(first) * 4], &header[..], rest].concat());
});
