//! What a file is that is no kernel for this guest: another architecture's, or something else that people hand to `--kernel`.

use carpel_arch::map::Arch;

use super::error::KernelError;
use super::fields::Fields;
use super::machines::architecture;
use super::source::Source;
use super::uki::Pe;
use super::{bzimage, image};

/// How a kind of file is told: bytes at an offset in the file.
struct Signature(u64, &'static [u8]);

/// What a file is, and what may be done with it.
type Kind = (Signature, &'static str, &'static str);

const UNPACK: &str = "carpel takes the kernel inside it";
const DISK: &str = "`--disk FILE` gives it to the guest";
const INITRD: &str = "`--initrd FILE` takes it";

/// Kinds of files that have a signature, the surest first.
const KINDS: &[Kind] = &[
    (
        Signature(0, b"\x27\x05\x19\x56"),
        "a U-Boot image (uImage)",
        "carpel takes the kernel inside it: `dumpimage -p 0 -o KERNEL FILE`",
    ),
    (
        Signature(0, b"ANDROID!"),
        "an Android boot image",
        "carpel takes the kernel inside it: `unpack_bootimg --boot_img FILE`",
    ),
    (Signature(0, b"VNDRBOOT"), "an Android vendor boot image", "the kernel is in the boot image beside it"),
    (Signature(0, b"QFI\xFB"), "a qcow2 disk image", "`--disk FILE,format=qcow2` gives it to the guest"),
    (Signature(0, b"KDMV"), "a VMDK disk image", "`qemu-img convert -O raw` makes one that `--disk FILE` takes"),
    (
        Signature(0, b"# Disk DescriptorFile"),
        "a VMDK disk image",
        "`qemu-img convert -O raw` makes one that `--disk FILE` takes",
    ),
    (Signature(0, b"vhdxfile"), "a VHDX disk image", "`qemu-img convert -O raw` makes one that `--disk FILE` takes"),
    (Signature(0, b"conectix"), "a VHD disk image", "`qemu-img convert -O raw` makes one that `--disk FILE` takes"),
    (
        Signature(0x40, b"\x7F\x10\xDA\xBE"),
        "a VDI disk image",
        "`qemu-img convert -O raw` makes one that `--disk FILE` takes",
    ),
    (Signature(0, b"version https://git-lfs.github.com/spec/"), "a git-lfs pointer", "`git lfs pull` fetches the file"),
    (Signature(0, b"/annex/objects/"), "a git-annex pointer", "`git annex get` fetches the file"),
    (Signature(0, b"#!"), "a script", "carpel boots kernels and runs no programs"),
    (Signature(0, b"070701"), "a cpio archive", INITRD),
    (Signature(0, b"070702"), "a cpio archive", INITRD),
    (Signature(0, b"070707"), "a cpio archive", "`--initrd FILE` takes it where its format is newc"),
    (Signature(257, b"ustar"), "a tar archive", UNPACK),
    (Signature(0, b"PK\x03\x04"), "a zip archive", UNPACK),
    (Signature(0, b"7z\xBC\xAF\x27\x1C"), "a 7z archive", UNPACK),
    (
        Signature(0, b"!<arch>\ndebian-binary"),
        "a Debian package",
        "carpel takes the kernel inside it: `dpkg-deb -x FILE DIRECTORY`",
    ),
    (Signature(0, b"!<arch>\n"), "an archive of object files", ""),
    (
        Signature(0, b"\xED\xAB\xEE\xDB"),
        "an RPM package",
        "carpel takes the kernel inside it: `rpm2cpio FILE | cpio -id`",
    ),
    (Signature(0, b"hsqs"), "a squashfs file system", DISK),
    (Signature(0, b"XFSB"), "an XFS file system", DISK),
    (Signature(0x400, b"\xE2\xE1\xF5\xE0"), "an EROFS file system", DISK),
    (Signature(0x1_0040, b"_BHRfS_M"), "a Btrfs file system", DISK),
    (Signature(0x8001, b"CD001"), "an ISO 9660 image", "`--disk FILE,ro` gives it to the guest"),
    (Signature(0x200, b"EFI PART"), "a disk image with partitions", DISK),
    (Signature(54, b"FAT1"), "a FAT file system", DISK),
    (Signature(82, b"FAT32"), "a FAT file system", DISK),
    (Signature(0, b"\xCF\xFA\xED\xFE"), "a Mach-O program", ""),
    (Signature(0, b"\x89PNG"), "a picture", ""),
    (Signature(0, b"%PDF"), "a PDF document", ""),
];

/// Kernels that a signature shows to be another architecture's.
const KERNELS: &[(Signature, &str, &str, Option<Arch>)] = &[
    (Signature(56, b"ARM\x64"), "Image", "aarch64", Some(Arch::Aarch64)),
    (Signature(56, b"RSC\x05"), "Image", "riscv64", Some(Arch::Riscv64)),
    (Signature(48, b"RISCV\0\0\0"), "Image", "riscv64", Some(Arch::Riscv64)),
    (Signature(0x24, b"\x18\x28\x6F\x01"), "zImage", "32-bit Arm", None),
    (Signature(56, b"\xCD\x23\x82\x81"), "Image", "LoongArch", None),
];

/// Why a file without the signature of this architecture's kernels is none of them; none if nothing is known of it.
pub fn recognise(arch: Arch, source: &Source) -> Result<Option<KernelError>, KernelError> {
    let has = |&Signature(at, bytes): &Signature| -> Result<bool, KernelError> {
        let Some(part) = source.part(at, bytes.len() as u64) else { return Ok(false) };
        let mut found = vec![0; bytes.len()];
        part.read(0, &mut found)?;
        Ok(found == bytes)
    };
    if arch != Arch::X86_64 && bzimage::is_bzimage(&source.prefix()?) {
        return Ok(Some(architecture("bzImage", "x86_64", Some(Arch::X86_64), arch, None)));
    }
    for (signature, format, machine, other) in KERNELS {
        if *other != Some(arch) && has(signature)? {
            return Ok(Some(architecture(format, machine, *other, arch, None)));
        }
    }
    let not_kernel = |what, remedy| Ok(Some(KernelError::NotKernel { what, remedy }));
    for (signature, what, remedy) in KINDS {
        if has(signature)? {
            return not_kernel(what, remedy);
        }
    }
    let start = source.prefix::<512>()?;
    if start[..4] == *b"\xD0\x0D\xFE\xED" {
        return device_tree(source).map(Some);
    }
    if !image::is_image(&start) && Pe::read(source)?.is_some() {
        return not_kernel("an EFI program without a kernel in it (no section `.linux`)", "");
    }
    if is_ext(source)? {
        return not_kernel("an ext4 file system", DISK);
    }
    if has_partitions(&start) {
        return not_kernel("a disk image with partitions", DISK);
    }
    let text = &start[..source.size().min(start.len() as u64) as usize];
    Ok(text_kind(text).map(|(what, remedy)| KernelError::NotKernel { what, remedy }))
}

/// A FIT image is a device tree with the node `/images`.
fn device_tree(source: &Source) -> Result<KernelError, KernelError> {
    const SEARCHED: u64 = 64 << 10;
    const NODE: &[u8] = b"\0\0\0\x01images\0";
    let mut start = vec![0; source.size().min(SEARCHED) as usize];
    source.read(0, &mut start)?;
    let is_fit = start.windows(NODE.len()).any(|bytes| bytes == NODE);
    Ok(if is_fit {
        let remedy = "carpel takes the kernel inside it: `dumpimage -T flat_dt -p 0 -o KERNEL FILE`";
        KernelError::NotKernel { what: "a U-Boot FIT image", remedy }
    } else {
        KernelError::NotKernel { what: "a device tree", remedy: "carpel makes the guest's own" }
    })
}

/// Whether a file is a file system of the ext family, whose signature alone is too short to tell (Linux, Documentation/filesystems/ext4/super.rst).
fn is_ext(source: &Source) -> Result<bool, KernelError> {
    const SUPERBLOCK: u64 = 0x400;
    const SIZE: usize = 0x58;
    let Some(superblock) = source.part(SUPERBLOCK, SIZE as u64) else { return Ok(false) };
    let superblock = superblock.prefix::<SIZE>()?;
    let fields = Fields(&superblock);
    let (block_size, magic, state, revision) = (fields.u32(0x18), fields.u16(0x38), fields.u16(0x3A), fields.u32(0x4C));
    Ok(magic == 0xEF53 && block_size <= 6 && state <= 7 && revision <= 1)
}

/// Whether a boot sector has a partition table: a signature, entries that are active or not, and one of a type.
fn has_partitions(start: &[u8; 512]) -> bool {
    let entries = || start[446..510].chunks_exact(16);
    start[510..] == [0x55, 0xAA]
        && entries().all(|entry| matches!(entry[0], 0 | 0x80))
        && entries().any(|entry| entry[4] != 0)
}

/// What a file is that begins with text.
fn text_kind(start: &[u8]) -> Option<(&'static str, &'static str)> {
    const LEAST: usize = 4;
    let start = start.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(start).trim_ascii_start();
    let begins = |word: &str| start.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()));
    if ["<!doctype html", "<html", "<head", "<body"].into_iter().any(begins) {
        return Some(("an HTML page", "a download went wrong"));
    }
    if begins("<?xml") {
        return Some(("an XML document", "a download may have gone wrong"));
    }
    let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    (start.len() >= LEAST && start.iter().all(is_text)).then_some(("a text file", ""))
}
