//! The distribution's stock kernel: its image as packaged, its modules, and the ELF file inside the image.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::arch::Architecture;
use crate::cache;
use crate::module::{self, Module};
use crate::packages::{candidate_for, install, names};

/// A stock kernel, unpacked in the cache.
#[derive(Debug)]
pub struct StockKernel {
    /// What `uname -r` says in it.
    pub release: String,
    /// The image as the distribution ships it.
    pub image: PathBuf,
    modules: PathBuf,
}

impl StockKernel {
    /// The current kernel of this machine's distribution, for an architecture.
    pub fn obtain(arch: &Architecture) -> Result<Self> {
        let names = names()?;
        let package = candidate_for(arch, &names.kernel(arch))?.dependency("linux-image-")?;
        let release = package.name.trim_start_matches("linux-image-").trim_start_matches("unsigned-").to_owned();
        let kernel = package.unpacked()?;
        let modules = match names.modules {
            Some(prefix) => package.dependency(prefix)?.unpacked()?,
            None => kernel.clone(),
        };
        let image = kernel.join(format!("boot/vmlinuz-{release}"));
        ensure!(image.exists(), "{} is missing in the package {}", image.display(), package.name);
        let modules =
            [modules.join("lib/modules"), modules.join("usr/lib/modules")].into_iter().find(|path| path.exists());
        let modules = modules.with_context(|| format!("The kernel {release} has no modules"))?.join(&release);
        Ok(Self { release, image, modules })
    }

    /// These modules and all that they depend on, in an order in which they load. Those that the kernel has built in are left out.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let builtin = fs::read_to_string(self.modules.join("modules.builtin")).context("Reading modules.builtin")?;
        let builtin = builtin.lines().map(|path| module::name(Path::new(path))).collect::<Vec<_>>();
        module::in_order(names, |name| {
            if builtin.iter().any(|other| other == name) { Ok(None) } else { self.module(name).map(Some) }
        })
    }

    /// The file of the module `name`, decompressed.
    fn module(&self, name: &str) -> Result<Vec<u8>> {
        let file =
            find(&self.modules, name)?.with_context(|| format!("Kernel {} has no module {name}", self.release))?;
        let bytes = fs::read(&file).with_context(|| format!("Reading {}", file.display()))?;
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => install(&["xz-utils"]).and_then(|()| filter("xz", &bytes)),
            Some("zst") => install(&["zstd"]).and_then(|()| filter("zstd", &bytes)),
            _ => Ok(bytes),
        }
    }

    /// The kernel as an uncompressed ELF file.
    pub fn vmlinux(&self) -> Result<PathBuf> {
        let directory = cache::once(&format!("vmlinux-{}", self.release), |directory| {
            let image = fs::read(&self.image).with_context(|| format!("Reading {}", self.image.display()))?;
            let elf = unpack(&image).with_context(|| format!("Unpacking {}", self.image.display()))?;
            Ok(fs::write(directory.join("vmlinux"), elf)?)
        })?;
        Ok(directory.join("vmlinux"))
    }
}

/// The file of the module `name` anywhere below `directory`: `NAME.ko`, maybe with the suffix of a compression.
fn find(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory).with_context(|| format!("Reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.to_string_lossy().contains(".ko") && module::name(&path) == name {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Magic number of the legacy frame of LZ4 (its frame format description, "Legacy frame").
const LZ4_LEGACY: [u8; 4] = 0x184C_2102_u32.to_le_bytes();
/// Magic number of a zstd frame (RFC 8878, section 3.1.1).
const ZSTD: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// What every block of a legacy frame but the last unpacks to, from the same description.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// The ELF file in a bzImage. Where it lies stands in the setup header (Linux's Documentation/x86/boot.rst); behind it, the
/// kernel's build appends its unpacked size as four bytes.
fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    const SETUP_SECTS: usize = 0x1F1;
    const HEADER_MAGIC: usize = 0x202;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24C;

    ensure!(image.get(HEADER_MAGIC..HEADER_MAGIC + 4) == Some(b"HdrS"), "It is no bzImage");
    let protected_mode = (usize::from(image[SETUP_SECTS]) + 1) * 512;
    let start = protected_mode + u32_at(image, PAYLOAD_OFFSET)?;
    let end = start + u32_at(image, PAYLOAD_LENGTH)?;
    let payload = image.get(start..end).context("Its payload lies outside the file")?;
    let (payload, size) = payload.split_last_chunk::<4>().context("Its payload is empty")?;
    let size = u32::from_le_bytes(*size) as usize;

    let elf = match payload.first_chunk::<4>() {
        Some(&LZ4_LEGACY) => lz4_legacy(&payload[4..])?,
        Some(&ZSTD) => filter("zstd", payload)?,
        magic => bail!("The compression of its payload is unknown: it starts with {magic:02x?}"),
    };
    ensure!(elf.len() == size, "Its payload should unpack to {size} bytes, and does to {}", elf.len());
    ensure!(elf.starts_with(b"\x7fELF"), "Its payload is no ELF file");
    Ok(elf)
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<usize> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk()).context("It ends within its header")?;
    Ok(u32::from_le_bytes(*field) as usize)
}

fn lz4_legacy(mut blocks: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    while !blocks.is_empty() {
        let length = u32_at(blocks, 0)?;
        let block = blocks.get(4..4 + length).with_context(|| format!("A block of {length} bytes passes the end"))?;
        out.append(&mut lz4_flex::block::decompress(block, LZ4_LEGACY_BLOCK)?);
        blocks = &blocks[4 + length..];
    }
    Ok(out)
}

/// What `program -dc` makes of `input`.
fn filter(program: &str, input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("Starting {program}"))?;
    let mut stdin = child.stdin.take().context("A child without its input")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    })?;
    ensure!(output.status.success(), "{program} ended with {}", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of one setup sector whose payload is `payload` and the four bytes of `size`.
    fn bzimage(payload: &[u8], size: u32) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1F1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24C..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&size.to_le_bytes());
        image
    }

    #[test]
    fn a_legacy_frame_of_several_blocks_unpacks_to_the_elf() {
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(LZ4_LEGACY_BLOCK + 1000, 7);
        let mut payload = LZ4_LEGACY.to_vec();
        for block in elf.chunks(LZ4_LEGACY_BLOCK) {
            let block = lz4_flex::block::compress(block);
            payload.extend_from_slice(&(block.len() as u32).to_le_bytes());
            payload.extend_from_slice(&block);
        }
        assert_eq!(unpack(&bzimage(&payload, elf.len() as u32)).unwrap(), elf);

        let short = unpack(&bzimage(&payload, 5)).unwrap_err().to_string();
        assert!(short.contains("should unpack to 5 bytes"), "{short}");
        payload.truncate(payload.len() - 1);
        assert!(unpack(&bzimage(&payload, elf.len() as u32)).unwrap_err().to_string().contains("passes the end"));
    }

    #[test]
    fn what_is_no_bzimage_is_told_apart_from_an_unknown_compression() {
        assert!(unpack(&[0; 100]).unwrap_err().to_string().contains("no bzImage"));
        assert!(unpack(&bzimage(b"????????", 1)).unwrap_err().to_string().contains("unknown"));
    }

    #[test]
    fn a_module_is_found_by_its_whole_name() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("kernel/virt")).unwrap();
        fs::write(root.path().join("kernel/virt/kvm-amd.ko"), "a").unwrap();
        fs::write(root.path().join("kernel/virt/kvm.ko.xz"), "k").unwrap();
        assert!(find(root.path(), "kvm").unwrap().unwrap().ends_with("kvm.ko.xz"));
        assert!(find(root.path(), "kvm_amd").unwrap().unwrap().ends_with("kvm-amd.ko"));
        assert!(find(root.path(), "amd").unwrap().is_none());
    }
}
