//! Initial RAM disks, of which a guest may have several: one after the other in memory.

use std::io;
use std::sync::Arc;

use carpel_arch::map::{Boot, PAGE_SIZE};

use super::kernel::Module;
use super::source::Source;

/// Linux reads archives one after the other, each at a multiple of 4 bytes (Linux, init/initramfs.c, `unpack_to_rootfs`).
const ALIGN: u64 = 4;

/// An initial RAM disk that was opened.
#[derive(Clone, Debug)]
pub struct Ramdisk {
    /// Its file's name as far as it is printable ASCII, without its directory.
    pub name: String,
    /// Its contents.
    pub source: Source,
}

/// Places initial RAM disks, for a kernel that is entered so: Multiboot kernels may want their modules at pages of their own.
pub fn place(ramdisks: &[Ramdisk], boot: Boot) -> Vec<Module> {
    let align = if boot == Boot::Multiboot { PAGE_SIZE } else { ALIGN };
    let mut modules = Vec::<Module>::new();
    for Ramdisk { name, source } in ramdisks {
        let offset = Module::end(&modules).next_multiple_of(align);
        modules.push(Module { name: name.clone(), offset, size: source.size() });
    }
    modules
}

/// All initial RAM disks as one, for firmware that reads them by position. Between them there are zeros.
#[derive(Clone, Debug)]
pub struct Joined {
    parts: Arc<[(Module, Source)]>,
}

impl Joined {
    /// Those of these places.
    pub fn new(modules: &[Module], ramdisks: &[Ramdisk]) -> Self {
        Self { parts: modules.iter().cloned().zip(ramdisks.iter().map(|ramdisk| ramdisk.source.clone())).collect() }
    }

    /// Fills `buffer` with the bytes from `offset` on.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        for (module, source) in &*self.parts {
            let (start, stop) = (module.offset.max(offset), (module.offset + module.size).min(end));
            if start < stop {
                source.read(start - module.offset, &mut buffer[(start - offset) as usize..(stop - offset) as usize])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramdisks() -> Vec<Ramdisk> {
        [&b"first"[..], b"2nd.", b"x"]
            .map(|bytes| Ramdisk { name: "r".into(), source: Source::from_bytes(bytes) })
            .to_vec()
    }

    #[test]
    fn each_starts_at_a_word_or_for_multiboot_at_a_page() {
        let ramdisks = ramdisks();
        let places =
            |boot| place(&ramdisks, boot).iter().map(|module| (module.offset, module.size)).collect::<Vec<_>>();
        assert_eq!(places(Boot::Linux), [(0, 5), (8, 4), (12, 1)]);
        assert_eq!(places(Boot::Multiboot), [(0, 5), (0x1000, 4), (0x2000, 1)]);
        assert_eq!(Module::end(&place(&ramdisks, Boot::Pvh)), 13);
        assert_eq!(Module::end(&[]), 0);
    }

    #[test]
    fn joined_they_are_one_file_with_zeros_between() {
        let ramdisks = ramdisks();
        let joined = Joined::new(&place(&ramdisks, Boot::Linux), &ramdisks);
        let whole = b"first\0\0\x002nd.x";
        for start in 0..whole.len() {
            for end in start..=whole.len() {
                let mut read = vec![0xFF; end - start];
                joined.read(start as u64, &mut read).unwrap();
                assert_eq!(read, whole[start..end]);
            }
        }
    }
}
