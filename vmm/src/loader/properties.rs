//! What holds for any file, however its headers lie: no parser panics, and what it passes on lies inside the file and inside
//! what it says the kernel occupies.

use std::fs;
use std::path::PathBuf;

use carpel_arch::map::{Arch, KernelExtent};
use proptest::prelude::*;

use super::decompress::SIGNATURES;
use super::decompress::tests::PACKERS;
use super::{Kernel, Source, Target, bzimage, elf, image, multiboot, uki, unpack, zboot};

/// Images of every format, to be damaged.
fn images() -> [Vec<u8>; 5] {
    [
        bzimage::tests::image(),
        elf::tests::image(),
        elf::tests::with_note(&[0x20, 0, 0x10, 0], 4),
        multiboot::tests::flat(),
        uki::tests::image(0x8664, &[(".linux", b"a kernel"), (".initrd", b"x"), (".cmdline", b"a b\n")]),
    ]
}

/// Gives the fuzz targets of tests/fuzz something to start from: `CARPEL_CORPUS=DIRECTORY` names where.
#[test]
fn seeds_for_fuzzing_are_images_that_parse() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = std::env::var_os("CARPEL_CORPUS").map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(directory.join(target)).unwrap();
        fs::write(directory.join(target).join(name), bytes).unwrap();
    };
    // The first byte of some targets' inputs is the number of the architecture in `Arch::ALL`.
    let seed = |target: &str, name: &str, arch: Arch, image: &[u8]| {
        assert!(!Kernel::ways(arch, &Source::from_vec(image.to_vec())).unwrap().is_empty(), "{name}");
        let number = Arch::ALL.iter().position(|&other| other == arch).unwrap() as u8;
        write("kernel", name, &[&[number], image].concat());
        write(target, name, &if target == "elf" { [&[number], image].concat() } else { image.to_vec() });
    };
    let [bzimage, elf, elf_with_note, multiboot, uki] = images();
    seed("bzimage", "bzimage", Arch::X86_64, &bzimage);
    seed("elf", "elf", Arch::X86_64, &elf);
    seed("elf", "elf-with-note", Arch::X86_64, &elf_with_note);
    seed("image", "image", Arch::Aarch64, &image::tests::image());
    write("kernel", "multiboot", &[&[0], &multiboot[..]].concat());
    // Its target adds the header's place and checksum.
    let header = multiboot.windows(4).position(|bytes| bytes == 0x1BAD_B002_u32.to_le_bytes()).unwrap();
    let (flags, rest) = (&multiboot[header + 4..header + 8], &multiboot[header + 12..]);
    write("multiboot", "multiboot", &[&[(header / 4) as u8], flags, rest].concat());
    for (index, (name, pack)) in PACKERS.into_iter().enumerate() {
        let packed = pack(&elf);
        let signature =
            SIGNATURES.iter().map(|(signature, _)| signature).find(|signature| packed.starts_with(signature));
        // Targets add the signature.
        let seed = format!("elf-{index}");
        write(&name.to_lowercase(), &seed, &packed[signature.unwrap().len()..]);
        write("kernel", &format!("{name}-{index}"), &[&[0], &packed[..]].concat());
        write("zboot", &seed, &zboot::tests::around(&packed));
    }
    write("uki", "uki", &uki);
    for (index, text) in ["512M", "1.5s", "rng,rate=64K", "host,-avx2,+sha"].iter().enumerate() {
        write("options", &index.to_string(), text.as_bytes());
    }
}

fn check(arch: Arch, bytes: &[u8]) {
    let source = Source::from_vec(bytes.to_vec());
    let _ = bzimage::payload(&source);
    let _ = uki::open(arch, &source);
    let Ok(ways) = Kernel::ways(arch, &source) else { return };
    assert!(!ways.is_empty());
    for way in ways {
        for segment in &way.segments {
            let end = segment.offset.checked_add(segment.size);
            assert!(segment.size > 0 && end.is_some_and(|end| end <= source.size()), "{way:?}");
            if let (Target::At(start), KernelExtent::Fixed { start: low, end: high }) = (segment.target, way.extent) {
                assert!(low <= start && start.checked_add(segment.size).is_some_and(|end| end <= high), "{way:?}");
            }
        }
        if let (Target::At(entry), KernelExtent::Fixed { start, end }) = (way.entry, way.extent) {
            assert!((start..end).contains(&entry), "{way:?}");
        }
    }
}

proptest! {
    #[test]
    fn damaged_images_are_refused_or_stay_inside_their_file(
        image in 0..5_usize,
        damage in prop::collection::vec((0..400_usize, any::<[u8; 4]>()), 0..6),
        cut in 0..600_usize,
        arch in prop::sample::select(&Arch::ALL[..]),
    ) {
        let mut bytes = images()[image].clone();
        for (at, value) in damage {
            // Headers are in the first bytes of these images, bzImage's behind 0x1F1.
            let at = if image == 0 { at % 0x80 + 0x1F0 } else { at % bytes.len() };
            let end = bytes.len().min(at + value.len());
            bytes[at..end].copy_from_slice(&value[..end - at]);
        }
        bytes.truncate(bytes.len().saturating_sub(cut).max(1));
        check(arch, &bytes);
    }

    #[test]
    fn any_stream_is_refused_or_unpacked_within_the_limit(
        signature in 0..7_usize,
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        const LIMIT: u64 = 1 << 20;
        let signatures: [&[u8]; 7] = [
            b"\x1F\x8B\x08\0",
            b"\xFD7zXZ\0",
            b"\x02\x21\x4C\x18",
            b"\x04\x22\x4D\x18",
            b"\x28\xB5\x2F\xFD",
            b"BZh9",
            b"\x5D\0\0",
        ];
        let bytes = [signatures[signature], &rest].concat();
        if let Ok(source) = unpack(Arch::X86_64, Source::from_vec(bytes), None, LIMIT) {
            prop_assert!(source.kernel.size() <= LIMIT);
        }
    }
}
