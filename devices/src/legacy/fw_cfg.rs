//! Firmware configuration device at port 0x510: what the monitor tells firmware about the machine.
//!
//! Source: QEMU, docs/specs/fw_cfg.rst and include/standard-headers/linux/qemu_fw_cfg.h (items). Ports only, without DMA; everything
//! is read only.
//!
//! | offset | register |
//! | --- | --- |
//! | 0 | selector: a 16-bit write selects an item and starts at its first byte |
//! | 1 | data: each byte read is the item's next, 0 behind its end |

use crate::bus::BusDevice;
use std::collections::BTreeMap;
use std::io;
use std::vec;

const SELECTOR: u64 = 0;
const DATA: u64 = 1;

const SIGNATURE: u16 = 0x00;
const ID: u16 = 0x01;
const CPU_COUNT: u16 = 0x05;
const KERNEL_SIZE: u16 = 0x08;
const INITRD_SIZE: u16 = 0x0b;
const MAX_CPU_COUNT: u16 = 0x0f;
const KERNEL_DATA: u16 = 0x11;
const INITRD_DATA: u16 = 0x12;
const CMDLINE_SIZE: u16 = 0x14;
const CMDLINE_DATA: u16 = 0x15;
const SETUP_ADDRESS: u16 = 0x16;
const SETUP_SIZE: u16 = 0x17;
const SETUP_DATA: u16 = 0x18;
const FILE_DIRECTORY: u16 = 0x19;
const FIRST_FILE: u16 = 0x20;

/// Bit 0 of the ID: the ports above. Bit 1 would be DMA.
const PORTS: u32 = 1 << 0;
/// Bytes of a file's name in the directory, the final NUL among them.
const NAME_SIZE: usize = 56;
/// Where QEMU has firmware put a kernel's setup code: a segment of its own, above what a BIOS uses.
const SETUP_AT: u32 = 0x1_0000;
/// An item is read this many bytes at a time: guests take it byte by byte.
const AHEAD: u64 = 16 << 10;

/// What an item consists of.
pub trait Contents: Send {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Fills `buffer` with the bytes from `offset` on, which are all there.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl Contents for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        io::Read::read_exact(&mut self.get(offset as usize..).unwrap_or_default(), buffer)
    }
}

/// A Linux kernel for firmware that loads it by itself. Firmware learns the sizes in 32 bits.
pub struct FwKernel {
    /// The start of its file: boot sector and setup code, which run in real mode.
    pub setup: Box<dyn Contents>,
    /// What of the file follows: the part that runs in protected mode.
    pub kernel: Box<dyn Contents>,
    /// Its initial RAM disk.
    pub initrd: Option<Box<dyn Contents>>,
    /// Its command line, without the final NUL.
    pub cmdline: String,
}

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
    items: BTreeMap<u16, Box<dyn Contents>>,
    selected: u16,
    /// How far the selected item was read, in bytes.
    read: u64,
    /// What was read of it, but not by the guest yet.
    ahead: vec::IntoIter<u8>,
}

impl FwCfg {
    /// Length of the port range in bytes.
    pub const LEN: u64 = 2;

    /// A device that tells of `cpus` CPUs, and has these files and perhaps a kernel.
    pub fn new(cpus: u16, files: Vec<FwFile>, kernel: Option<FwKernel>) -> Self {
        let bytes = |key, bytes: Vec<u8>| (key, Box::new(bytes) as Box<dyn Contents>);
        let mut items = BTreeMap::from([
            bytes(SIGNATURE, b"QEMU".to_vec()),
            bytes(ID, PORTS.to_le_bytes().to_vec()),
            bytes(CPU_COUNT, cpus.to_le_bytes().to_vec()),
            bytes(MAX_CPU_COUNT, cpus.to_le_bytes().to_vec()),
            bytes(FILE_DIRECTORY, directory(&files)),
        ]);
        items.extend((FIRST_FILE..).zip(files).map(|(key, file)| bytes(key, file.contents)));
        if let Some(FwKernel { setup, kernel, initrd, cmdline }) = kernel {
            items.extend([bytes(SETUP_ADDRESS, SETUP_AT.to_le_bytes().to_vec())]);
            let (_, cmdline) = bytes(CMDLINE_DATA, [cmdline.as_bytes(), &[0]].concat());
            let parts = [
                (SETUP_SIZE, SETUP_DATA, Some(setup)),
                (KERNEL_SIZE, KERNEL_DATA, Some(kernel)),
                (INITRD_SIZE, INITRD_DATA, initrd),
                (CMDLINE_SIZE, CMDLINE_DATA, Some(cmdline)),
            ];
            for (size, data, part) in parts {
                let Some(part) = part else { continue };
                items.extend([bytes(size, (part.size() as u32).to_le_bytes().to_vec()), (data, part)]);
            }
        }
        Self { items, selected: SIGNATURE, read: 0, ahead: Vec::new().into_iter() }
    }

    fn next_byte(&mut self) -> u8 {
        if self.ahead.len() == 0 {
            self.ahead = self.read_ahead().into_iter();
        }
        self.ahead.next().unwrap_or_default()
    }

    /// The next bytes of the selected item; none behind its end.
    fn read_ahead(&mut self) -> Vec<u8> {
        let Some(item) = self.items.get(&self.selected) else { return Vec::new() };
        let count = item.size().saturating_sub(self.read).min(AHEAD);
        let mut bytes = vec![0; count as usize];
        if let Err(error) = item.read(self.read, &mut bytes) {
            log::error!("Firmware gets no more of fw_cfg's item {:#x}, which cannot be read: {error}", self.selected);
            // Once is enough: a guest must not fill the log.
            self.items.remove(&self.selected);
            return Vec::new();
        }
        self.read += count;
        bytes
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
            (self.selected, self.read) = (u16::from_le_bytes([low, high]), 0);
            self.ahead = Vec::new().into_iter();
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
        let mut device = FwCfg::new(3, files, None);
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
        let mut device = FwCfg::new(1, Vec::new(), None);
        assert_eq!(item(&mut device, 0x8003, 3), [0; 3]);
        device.write(SELECTOR, &[0]);
        device.write(DATA, &[1]);
        let mut data = [0xff; 4];
        device.read(SELECTOR, &mut data);
        assert_eq!(data, [0; 4]);
    }

    /// More than is read at a time; each byte tells where it is.
    fn long() -> Vec<u8> {
        (0..3 * AHEAD as u32).map(|at| (at % 251) as u8).collect()
    }

    fn number(device: &mut FwCfg, key: u16) -> u32 {
        u32::from_le_bytes(item(device, key, 4).try_into().unwrap())
    }

    #[test]
    fn a_kernel_is_told_in_parts() {
        let kernel = FwKernel {
            setup: Box::new(b"setup".to_vec()),
            kernel: Box::new(long()),
            initrd: Some(Box::new(b"initrd".to_vec())),
            cmdline: "quiet".to_owned(),
        };
        let mut device = FwCfg::new(1, Vec::new(), Some(kernel));
        assert_eq!(number(&mut device, SETUP_ADDRESS), 0x1_0000);
        let sizes = [(SETUP_SIZE, 5), (KERNEL_SIZE, 3 * AHEAD as u32), (INITRD_SIZE, 6), (CMDLINE_SIZE, 6)];
        for (key, size) in sizes {
            assert_eq!(number(&mut device, key), size);
        }
        assert_eq!(item(&mut device, SETUP_DATA, 6), b"setup\0");
        assert!(item(&mut device, KERNEL_DATA, long().len()) == long());
        assert_eq!(item(&mut device, KERNEL_DATA, 2), [0, 1], "from its start again");
        assert_eq!(item(&mut device, INITRD_DATA, 7), b"initrd\0");
        assert_eq!(item(&mut device, CMDLINE_DATA, 6), b"quiet\0");
    }

    #[test]
    fn without_a_kernel_all_sizes_are_zero() {
        let mut device = FwCfg::new(1, Vec::new(), None);
        for key in [SETUP_SIZE, KERNEL_SIZE, INITRD_SIZE, CMDLINE_SIZE] {
            assert_eq!(number(&mut device, key), 0);
        }
    }

    /// A file that has become shorter.
    struct Shrunk(Vec<u8>);

    impl Contents for Shrunk {
        fn size(&self) -> u64 {
            self.0.size() + 1
        }

        fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, buffer)
        }
    }

    #[test]
    fn what_cannot_be_read_is_zero() {
        let kernel = FwKernel {
            setup: Box::new(Shrunk(long())),
            kernel: Box::new(b"kernel".to_vec()),
            initrd: None,
            cmdline: String::new(),
        };
        let mut device = FwCfg::new(1, Vec::new(), Some(kernel));
        let mut expected = long();
        expected.push(0);
        assert!(item(&mut device, SETUP_DATA, expected.len()) == expected);
        assert_eq!(item(&mut device, KERNEL_DATA, 6), b"kernel");
    }
}
