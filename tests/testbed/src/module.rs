//! Kernel modules: what they depend on, and the order in which they load.

use std::path::Path;

use anyhow::Result;

/// A module of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name as the kernel knows it.
    pub name: String,
    /// Its file, decompressed.
    pub bytes: Vec<u8>,
}

/// The name of the module in a file: without suffixes, and with underscores wherever the file has hyphens.
pub fn name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

/// These modules after what they depend on, each once. `read` gives a module's file; none if it needs no loading.
pub fn in_order(names: &[&str], read: impl Fn(&str) -> Result<Option<Vec<u8>>>) -> Result<Vec<Module>> {
    let mut modules = Vec::new();
    for name in names {
        load(name, &read, &mut modules)?;
    }
    Ok(modules)
}

fn load(name: &str, read: &impl Fn(&str) -> Result<Option<Vec<u8>>>, loaded: &mut Vec<Module>) -> Result<()> {
    if loaded.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let Some(bytes) = read(name)? else { return Ok(()) };
    // A module depends on no module that depends on it, so this ends.
    for dependency in dependencies(&bytes) {
        load(&dependency, read, loaded)?;
    }
    loaded.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// What the module itself says that it depends on, in its section .modinfo (Linux's include/linux/module.h).
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[start + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_depends_on_comes_before_it_and_once() {
        let read = |name: &str| {
            let text: &[u8] = match name {
                "disk" => b"ELF\0license=GPL\0depends=ring,bus-core\0rest",
                "bus_core" => b"\0depends=ring\0",
                "ring" => b"\0depends=\0",
                _ => return Ok(None),
            };
            Ok(Some(text.to_vec()))
        };
        let modules = in_order(&["disk", "built_in", "ring"], read).unwrap();
        assert_eq!(modules.into_iter().map(|module| module.name).collect::<Vec<_>>(), ["ring", "bus_core", "disk"]);
    }

    #[test]
    fn a_files_name_is_not_yet_the_modules() {
        assert_eq!(name(Path::new("kernel/drivers/char/hw_random/virtio-rng.ko.xz")), "virtio_rng");
    }
}
