//! The rules of the house, and the promises of the README, as tests.

mod modules;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use carpel_testbed::payload;
use source::{Source, Token, code, files_with, item, root, sources, tokens};

/// No file of the source grows beyond what a stranger reads in one sitting. Unit tests count.
const LONGEST_FILE: usize = 600;
/// Lines of a function.
const LONGEST_FUNCTION: usize = 60;

#[test]
fn the_host_architecture_matters_in_few_places() {
    let allowed = ["vmm/src/kvm/", "tests/"];
    for Source { name, text } in sources() {
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

/// The files with unsafe code are those that the architecture names.
#[test]
fn unsafe_code_stands_where_the_architecture_says() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let statement = page.split("\n* ").find(|item| item.starts_with("`unsafe` stands in")).unwrap();
    let named = statement.split('`').filter(|part| part.contains('/')).collect::<BTreeSet<_>>();
    let mut used = BTreeSet::new();
    for Source { name, text } in sources() {
        let code = code(&text);
        let all = tokens(&code);
        let has_unsafe =
            all.windows(2).any(|pair| pair[0].text == "unsafe" && ["{", "impl", "fn"].contains(&pair[1].text));
        if has_unsafe {
            let place = named.iter().find(|place| name.starts_with(**place));
            used.insert(
                *place.unwrap_or_else(|| panic!("{name} has unsafe code, of which docs/architecture.md does not tell")),
            );
        }
    }
    assert_eq!(named, used, "docs/architecture.md names places without unsafe code");
}

#[test]
fn files_are_short() {
    for Source { name, text } in sources() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{name} has {lines} lines");
    }
}

#[test]
fn functions_are_short() {
    let mut seen = 0;
    for Source { name, text } in sources() {
        for (function, lines) in functions(&text) {
            assert!(lines <= LONGEST_FUNCTION, "{name}: {function} has {lines} lines");
            seen += 1;
        }
    }
    assert!(seen > 1000, "{seen}");
}

/// The functions with a body, and how many lines each has, its signature included.
fn functions(text: &str) -> Vec<(String, usize)> {
    let code = code(text);
    let tokens = tokens(&code);
    let is_name = |token: &Token<'_>| token.text.starts_with(|char: char| char.is_alphabetic() || char == '_');
    let starts = (1..tokens.len()).filter(|&at| tokens[at - 1].text == "fn" && is_name(&tokens[at]));
    let function = |at: usize| {
        let item = item(&tokens, at);
        let last = &tokens[item.end - 1];
        (last.text == "}").then(|| (tokens[at].text.to_owned(), last.line - tokens[at].line + 1))
    };
    starts.filter_map(function).collect()
}

#[test]
fn a_function_is_measured_from_its_name_to_its_end() {
    let text =
        "trait A { fn a(); }\nfn b<const N: usize>(c: [u8; N]) -> u8 {\n    \"}\"; // }\n    fn d() {}\n    0\n}\n";
    assert_eq!(functions(text), [("b".to_owned(), 5), ("d".to_owned(), 1)]);
}

#[test]
fn documents_link_to_files_that_exist() {
    let mut documents = files_with("md", &root().join("docs"));
    documents.push(root().join("README.md"));
    assert!(documents.len() > 8, "{documents:?}");
    for path in documents {
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap();
            let exists = target.contains("://") || path.parent().unwrap().join(target).exists();
            assert!(exists, "{} links to {target}", path.display());
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
        let elsewhere = std::env::consts::ARCH != "x86_64" && stderr.contains("on x86_64 only");
        assert!(taken || elsewhere || example == "carpel doctor", "{example}: {stderr}");
    }
}
