//! Initial RAM file systems, for hosts and for guests: a `newc` archive (Linux's Documentation/driver-api/early-userspace/
//! buffer-format.rst) of files given by path.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

use crate::module::Module;

/// An archive in the making. Directories appear by themselves, before what is in them.
#[derive(Debug, Default)]
pub struct Initramfs {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    permissions: u32,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Directory,
    Bytes(Vec<u8>),
    File(PathBuf),
    Device(u32, u32),
}

impl Initramfs {
    /// An archive with what every early init needs: `busybox` in /bin, the console's device node (the kernel opens it before
    /// anything can mount /dev), and empty directories to mount on.
    pub fn with_busybox(busybox: &Path) -> Self {
        let mut archive = Self::default();
        archive.file("bin/busybox", 0o755, busybox);
        archive.add("dev/console", 0o600, Body::Device(5, 1));
        for directory in ["proc", "sys", "tmp"] {
            archive.add(directory, 0o755, Body::Directory);
        }
        archive
    }

    /// Adds a file of these bytes.
    pub fn bytes(&mut self, path: &str, permissions: u32, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path, permissions, Body::Bytes(bytes.into()))
    }

    /// Adds a copy of a file of this machine.
    pub fn file(&mut self, path: &str, permissions: u32, source: &Path) -> &mut Self {
        self.add(path, permissions, Body::File(source.to_owned()))
    }

    /// Adds kernel modules to /modules, where their names sort in the order in which they load.
    pub fn modules(&mut self, modules: Vec<Module>) -> &mut Self {
        for (number, module) in modules.into_iter().enumerate() {
            self.bytes(&format!("modules/{number:02}-{}.ko", module.name), 0o644, module.bytes);
        }
        self
    }

    fn add(&mut self, path: &str, permissions: u32, body: Body) -> &mut Self {
        for (slash, _) in path.match_indices('/') {
            let parent = path[..slash].to_owned();
            self.entries.entry(parent).or_insert(Entry { permissions: 0o755, body: Body::Directory });
        }
        self.entries.insert(path.to_owned(), Entry { permissions, body });
        self
    }

    /// Writes the archive to the file `path`, uncompressed: unpacking costs more under emulation than reading.
    pub fn write(&self, path: &Path) -> Result<()> {
        let context = || format!("Writing the initramfs {}", path.display());
        let mut out = BufWriter::new(File::create(path).with_context(context)?);
        for (index, (name, entry)) in self.entries.iter().enumerate() {
            let builder = Builder::new(name).ino(index as u32 + 1).mode(entry.permissions);
            write_entry(&mut out, builder, &entry.body).with_context(|| format!("Packing {name}"))?;
        }
        trailer(&mut out).with_context(context)?;
        out.flush().with_context(context)
    }
}

fn write_entry(out: &mut impl Write, builder: Builder, body: &Body) -> Result<()> {
    match body {
        Body::Directory => {
            builder.nlink(2).set_mode_file_type(ModeFileType::Directory).write(out, 0).finish()?;
        }
        Body::Device(major, minor) => {
            let builder = builder.set_mode_file_type(ModeFileType::Char).rdev_major(*major).rdev_minor(*minor);
            builder.write(out, 0).finish()?;
        }
        Body::Bytes(bytes) => {
            let mut entry = builder.set_mode_file_type(ModeFileType::Regular).write(out, u32::try_from(bytes.len())?);
            entry.write_all(bytes)?;
            entry.finish()?;
        }
        Body::File(source) => {
            let context = || format!("Reading {}", source.display());
            let length = fs::metadata(source).with_context(context)?.len();
            let mut entry = builder.set_mode_file_type(ModeFileType::Regular).write(out, u32::try_from(length)?);
            io::copy(&mut File::open(source).with_context(context)?, &mut entry).with_context(context)?;
            entry.finish()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;

    #[test]
    fn parents_come_first_and_the_console_is_a_device() {
        let root = tempfile::tempdir().unwrap();
        let busybox = root.path().join("busybox");
        fs::write(&busybox, "binary").unwrap();
        let mut archive = Initramfs::with_busybox(&busybox);
        archive.bytes("a/b/c", 0o600, "text");
        let packed = root.path().join("packed");
        archive.write(&packed).unwrap();

        let mut input = File::open(&packed).unwrap();
        let mut seen = Vec::new();
        loop {
            let mut reader = Reader::new(input).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut text = String::new();
            io::Read::read_to_string(&mut reader, &mut text).unwrap();
            let entry = reader.entry();
            seen.push((entry.name().to_owned(), entry.mode(), (entry.rdev_major(), entry.rdev_minor()), text));
            input = reader.finish().unwrap();
        }
        let expected = [
            ("a", 0o040_755, (0, 0), ""),
            ("a/b", 0o040_755, (0, 0), ""),
            ("a/b/c", 0o100_600, (0, 0), "text"),
            ("bin", 0o040_755, (0, 0), ""),
            ("bin/busybox", 0o100_755, (0, 0), "binary"),
            ("dev", 0o040_755, (0, 0), ""),
            ("dev/console", 0o020_600, (5, 1), ""),
            ("proc", 0o040_755, (0, 0), ""),
            ("sys", 0o040_755, (0, 0), ""),
            ("tmp", 0o040_755, (0, 0), ""),
        ];
        assert_eq!(seen, expected.map(|(name, mode, device, text)| (name.to_owned(), mode, device, text.to_owned())));
    }
}
