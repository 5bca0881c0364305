//! The rules of the house, and the promises of the README, as tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use carpel_testbed::payload;

/// No file of the source grows beyond what a stranger reads in one sitting. Unit tests count.
const LONGEST_FILE: usize = 620;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn sources() -> Vec<(String, String)> {
    let files: Vec<_> =
        ["src", "arch", "devices", "vmm", "tests"].iter().flat_map(|dir| rust_files(&root().join(dir))).collect();
    assert!(files.len() > 50, "the sources were found");
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn the_host_architecture_matters_in_few_places() {
    let allowed = ["vmm/src/kvm/", "tests/"];
    for (name, text) in sources() {
        let matters = text.contains("cfg(target_arch") || text.contains("cfg(not(target_arch");
        assert!(!matters || allowed.iter().any(|place| name.starts_with(place)), "{name} has a cfg(target_arch)");
    }
}

#[test]
fn crates_know_only_what_is_below_them() {
    let forbidden = [
        ("arch", &["carpel-devices", "carpel-vmm", "kvm-ioctls", "kvm-bindings"][..]),
        ("devices", &["carpel-arch", "carpel-vmm", "kvm-ioctls", "kvm-bindings"]),
        ("vmm", &["clap", "anyhow"]),
    ];
    for (name, dependencies) in forbidden {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        for dependency in dependencies {
            assert!(!manifest.contains(&format!("\n{dependency}.")), "{name} depends on {dependency}");
        }
    }
}

/// What is decided about a guest, and what is written into its memory, depends on no KVM: neither by itself nor by a module
/// that it uses.
#[test]
fn plan_and_boot_reach_no_kvm() {
    let module_of = |name: &str| Some(name.strip_prefix("vmm/src/")?.split(['/', '.']).next()?.to_owned());
    let files: Vec<_> =
        sources().into_iter().filter_map(|(name, text)| Some((module_of(&name)?, name, text))).collect();
    let mut reached = ["boot", "config", "loader", "plan"].map(str::to_owned).to_vec();
    let mut index = 0;
    while index < reached.len() {
        let module = reached[index].clone();
        assert!(files.iter().any(|(of, ..)| *of == module), "vmm has no module {module}");
        for (_, name, text) in files.iter().filter(|(of, ..)| *of == module) {
            let calls = ["crate::kvm", "kvm_ioctls", "kvm_bindings"].into_iter().find(|path| text.contains(path));
            assert_eq!(calls, None, "{name}, which one of {} uses", reached[..index].join(", "));
            for path in text.split("crate::").skip(1) {
                let end = path.find(|char: char| !char.is_ascii_lowercase() && char != '_');
                let used = path[..end.unwrap_or(path.len())].to_owned();
                assert!(!used.is_empty(), "{name} does not name the modules that it uses one by one");
                if !reached.contains(&used) {
                    reached.push(used);
                }
            }
        }
        index += 1;
    }
}

#[test]
fn unsafe_code_stands_where_the_architecture_says() {
    let allowed = [
        "vmm/src/",
        "tests/",
        "devices/src/virtio/balloon/discard.rs",
        "devices/src/virtio/blk/block_device.rs",
        "devices/src/virtio/blk/engine/uring.rs",
        "devices/src/virtio/blk/transfer.rs",
        "devices/src/virtio/net/link.rs",
        "devices/src/virtio/net/tap.rs",
    ];
    for (name, text) in sources() {
        let has_unsafe = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("unsafe {"));
        assert!(!has_unsafe || allowed.iter().any(|place| name.starts_with(place)), "{name} has unsafe code");
    }
}

#[test]
fn files_are_short() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{name} has {lines} lines");
    }
}

#[test]
fn documents_link_to_files_that_exist() {
    for document in ["README.md", "docs/architecture.md", "docs/testing.md", "docs/maps.md"] {
        let path = root().join(document);
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap();
            let exists = target.contains("://") || path.parent().unwrap().join(target).exists();
            assert!(exists, "{document} links to {target}");
        }
    }
}

/// Every line of the README that calls carpel is one that carpel takes: what boots a guest is planned with a payload.
#[test]
fn examples_of_the_readme_are_taken() {
    let (bin, kernel) = (env!("CARGO_BIN_EXE_carpel"), payload::path("hello"));
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("initrd"), "initrd").unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let examples: Vec<_> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split(" # ").next())
        .filter_map(|line| line.find("carpel ").map(|at| line[at..].trim()))
        .collect();
    assert!(examples.len() >= 10, "{examples:?}");
    for example in examples {
        let arguments = example.strip_prefix("carpel ").unwrap();
        let mut script = format!("exec {bin} {arguments}");
        if arguments.starts_with("run ") {
            for name in ["/boot/vmlinuz-6.1.0-cloud-amd64", "bzImage", "vmlinux", "kernel"] {
                script = script.replace(&format!("-k {name}"), &format!("-k {}", kernel.display()));
            }
            script = script.replace("initrd.img", "initrd").replace(" --dry-run", "") + " --dry-run";
        }
        let output = Command::new("sh").args(["-c", &script]).current_dir(scratch.path()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let taken = output.status.success() && !output.stdout.is_empty();
        assert!(taken || example == "carpel doctor", "{example}: {stderr}");
    }
}
