//! Firmware configuration device at port 0x510: what the monitor tells firmware about the machine.
//!
//! Source: QEMU, docs/specs/fw_cfg.rst. Ports only, without DMA; everything is read only.
//!
//! | offset | register |
//! | --- | --- |
//! | 0 | selector: a 16-bit write selects an item and starts at its first byte |
//! | 1 | data: each byte read is the item's next, 0 behind its end |

use crate::bus::BusDevice;
use std::collections::BTreeMap;

const SELECTOR: u64 = 0;
const DATA: u64 = 1;

const SIGNATURE: u16 = 0x00;
const ID: u16 = 0x01;
const CPU_COUNT: u16 = 0x05;
const MAX_CPU_COUNT: u16 = 0x0f;
const FILE_DIRECTORY: u16 = 0x19;
const FIRST_FILE: u16 = 0x20;

/// Bit 0 of the ID: the ports above. Bit 1 would be DMA.
const PORTS: u32 = 1 << 0;
/// Bytes of a file's name in the directory, the final NUL among them.
const NAME_SIZE: usize = 56;

/// A file for firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwFile {
    /// Its name, at most 55 bytes.
    pub name: &'static str,
    /// Its contents.
    pub contents: Vec<u8>,
}

/// The device.
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    selected: u16,
    at: usize,
}

impl FwCfg {
    /// Length of the port range in bytes.
    pub const LEN: u64 = 2;

    /// A device that tells of `cpus` CPUs and has these files.
    pub fn new(cpus: u16, files: Vec<FwFile>) -> Self {
        let mut items = BTreeMap::from([
            (SIGNATURE, b"QEMU".to_vec()),
            (ID, PORTS.to_le_bytes().to_vec()),
            (CPU_COUNT, cpus.to_le_bytes().to_vec()),
            (MAX_CPU_COUNT, cpus.to_le_bytes().to_vec()),
            (FILE_DIRECTORY, directory(&files)),
        ]);
        items.extend((FIRST_FILE..).zip(files.into_iter().map(|file| file.contents)));
        Self { items, selected: SIGNATURE, at: 0 }
    }

    fn next_byte(&mut self) -> u8 {
        let byte = self.items.get(&self.selected).and_then(|item| item.get(self.at));
        self.at = self.at.saturating_add(1);
        byte.copied().unwrap_or_default()
    }
}

impl BusDevice for FwCfg {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            DATA => data.iter_mut().for_each(|byte| *byte = self.next_byte()),
            _ => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (SELECTOR, &[low, high]) = (offset, data) {
            (self.selected, self.at) = (u16::from_le_bytes([low, high]), 0);
        }
    }
}

/// The number of files, then size, selector, two reserved bytes and name of each; big endian.
fn directory(files: &[FwFile]) -> Vec<u8> {
    let mut bytes = (files.len() as u32).to_be_bytes().to_vec();
    for (key, file) in (FIRST_FILE..).zip(files) {
        bytes.extend((file.contents.len() as u32).to_be_bytes());
        bytes.extend(key.to_be_bytes());
        bytes.extend([0; 2]);
        let mut name = [0; NAME_SIZE];
        let len = file.name.len().min(NAME_SIZE - 1);
        name[..len].copy_from_slice(&file.name.as_bytes()[..len]);
        bytes.extend(name);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(device: &mut FwCfg, key: u16, len: usize) -> Vec<u8> {
        device.write(SELECTOR, &key.to_le_bytes());
        (0..len)
            .map(|_| {
                let mut data = [0xff; 1];
                device.read(DATA, &mut data);
                data[0]
            })
            .collect()
    }

    #[test]
    fn a_file_is_found_by_the_directory() {
        let files = vec![
            FwFile { name: "etc/e820", contents: b"abc".to_vec() },
            FwFile { name: "etc/acpi/rsdp", contents: b"de".to_vec() },
        ];
        let mut device = FwCfg::new(3, files);
        assert_eq!(item(&mut device, SIGNATURE, 4), b"QEMU");
        assert_eq!(item(&mut device, CPU_COUNT, 2), [3, 0]);
        let directory = item(&mut device, FILE_DIRECTORY, 4 + 2 * 64);
        assert_eq!(directory[..12], [0, 0, 0, 2, 0, 0, 0, 3, 0, 0x20, 0, 0]);
        assert_eq!(&directory[12..21], b"etc/e820\0");
        assert_eq!(directory[68..76], [0, 0, 0, 2, 0, 0x21, 0, 0]);
        assert_eq!(item(&mut device, 0x20, 5), b"abc\0\0");
        assert_eq!(item(&mut device, 0x21, 2), b"de");
    }

    #[test]
    fn unknown_items_are_zero_and_only_words_select() {
        let mut device = FwCfg::new(1, Vec::new());
        assert_eq!(item(&mut device, 0x8003, 3), [0; 3]);
        device.write(SELECTOR, &[0]);
        device.write(DATA, &[1]);
        let mut data = [0xff; 4];
        device.read(SELECTOR, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
