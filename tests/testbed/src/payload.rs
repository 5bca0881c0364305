//! The test guests that the build made from `resources/payloads`, and the floor program that measures against them.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::compile::{AARCH64, build_guests};
use crate::workspace;

/// The image of a payload for this architecture; of its forms, the one that stock kernels have there too.
///
/// # Panics
/// If there is none of that name; the message lists those there are.
pub fn path(name: &str) -> PathBuf {
    let directory = Path::new(env!("OUT_DIR")).join("payloads").join(ARCH);
    let image = directory.join(if ARCH == AARCH64.arch { format!("{name}.image") } else { name.to_owned() });
    assert!(image.is_file(), "No payload is named {name:?}; there are {}", names(&directory).join(", "));
    image
}

/// Builds the payloads for aarch64, and returns the directory that they are in.
pub fn aarch64() -> Result<PathBuf> {
    let out = workspace::logs().join("payloads/aarch64");
    build_guests(&AARCH64, &workspace::root().join("resources/payloads/aarch64"), &out)?;
    Ok(out)
}

/// The program that runs a payload with KVM calls only (`resources/bench/floor.c`); on `x86_64` only.
pub fn floor() -> PathBuf {
    Path::new(env!("OUT_DIR")).join("floor")
}

/// The guest of `serial_byte` as an ELF file with a PVH note (`resources/bench/byte_pvh.S`); on `x86_64` only.
pub fn byte_pvh() -> PathBuf {
    Path::new(env!("OUT_DIR")).join("byte_pvh")
}

/// The program that puts load on a guest's devices (`resources/bench/load.c`); on `x86_64` only.
pub fn load() -> PathBuf {
    Path::new(env!("OUT_DIR")).join("load")
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_form_of_the_architecture() {
        let image = fs::read(path("hello")).unwrap();
        let (at, magic) =
            if ARCH == AARCH64.arch { (56, b"ARM\x64".as_slice()) } else { (0, b"\x7fELF\x02".as_slice()) };
        assert!(image[at..].starts_with(magic), "{:x?}", &image[..64]);
    }

    #[test]
    #[should_panic(expected = ", hello")]
    fn an_unknown_name_lists_the_known_ones() {
        path("none");
    }
}
