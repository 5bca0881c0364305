//! Which files of a crate use which: no large circles, and nothing impure below what decides.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, Token, code, sources, tokens, without_tests};

/// The most files that may use each other in a circle.
const LARGEST_CIRCLE: usize = 4;

/// Crates by the directory of their sources.
const CRATES: [&str; 4] = ["src/", "arch/src/", "devices/src/", "vmm/src/"];

/// A module's path in its crate.
type Module = Vec<String>;

/// A crate's files, and which others each uses where it is no test.
#[derive(Default)]
struct Graph {
    /// The name of each module's file, and all that stands in it.
    files: BTreeMap<Module, (String, String)>,
    uses: BTreeMap<Module, BTreeSet<Module>>,
}

impl Graph {
    /// Reads the crate whose sources are in `dir`.
    fn new(dir: &str, sources: &[Source]) -> Self {
        let of_crate = sources.iter().filter_map(|source| Some((module(source.name.strip_prefix(dir)?), source)));
        let mut files: BTreeMap<_, _> =
            of_crate.map(|(module, source)| (module, (source.name.clone(), code(&source.text)))).collect();
        let in_tests: Vec<Module> = files
            .iter()
            .flat_map(|(module, (_, code))| {
                let modules = without_tests(&tokens(code)).1;
                modules.into_iter().map(|name| child(module, name)).collect::<Vec<_>>()
            })
            .collect();
        files.retain(|module, _| !in_tests.iter().any(|test| module.starts_with(test)));
        let mut graph = Self { files, uses: BTreeMap::new() };
        graph.uses = graph.files.iter().map(|(module, (_, code))| (module.clone(), graph.used(module, code))).collect();
        graph
    }

    /// The modules that a file names, itself excepted.
    fn used(&self, module: &Module, code: &str) -> BTreeSet<Module> {
        let all = tokens(code);
        let (tokens, _) = without_tests(&all);
        let mut used = BTreeSet::new();
        for (at, start) in starts(&tokens) {
            let depth = inner_depth(&tokens[..at]);
            let supers = tokens[at..].iter().step_by(2).take_while(|token| token.text == "super").count();
            let base: &[String] = match start {
                "crate" => &[],
                "super" if supers > depth => &module[..module.len().saturating_sub(supers - depth)],
                "super" | "self" => module,
                // A child of this module, or nothing of this crate.
                name if self.files.contains_key(&child(module, name)) => module,
                _ => continue,
            };
            let skipped = match start {
                "crate" | "self" => 2,
                "super" => 2 * supers,
                _ => 0,
            };
            for path in paths(&tokens[at + skipped..]) {
                let mut full: Module = base.iter().cloned().chain(path.into_iter().map(str::to_owned)).collect();
                while !self.files.contains_key(&full) && full.pop().is_some() {}
                used.insert(full);
            }
        }
        used.remove(module);
        used
    }

    /// All modules that these use, by others too; and by which module each was found.
    fn reached(&self, from: &[Module]) -> BTreeMap<Module, Module> {
        let mut reached: BTreeMap<_, _> = from.iter().map(|module| (module.clone(), module.clone())).collect();
        let mut open = from.to_vec();
        while let Some(module) = open.pop() {
            for used in self.uses.get(&module).into_iter().flatten() {
                if !reached.contains_key(used) {
                    reached.insert(used.clone(), module.clone());
                    open.push(used.clone());
                }
            }
        }
        reached
    }

    /// Sets of files of which each uses all others, by others too.
    fn circles(&self) -> Vec<Vec<&str>> {
        let reached: BTreeMap<_, _> =
            self.uses.keys().map(|module| (module, self.reached(std::slice::from_ref(module)))).collect();
        let mut circles = BTreeSet::new();
        for (module, others) in &reached {
            let back =
                others.keys().filter(|other| reached.get(other).is_some_and(|those| those.contains_key(*module)));
            circles.insert(back.map(|module| self.files[module].0.as_str()).collect::<Vec<_>>());
        }
        circles.into_iter().filter(|circle| circle.len() > 1).collect()
    }

    /// The modules in and below one.
    fn below(&self, name: &str) -> Vec<Module> {
        let modules: Vec<_> =
            self.files.keys().filter(|module| module.first().is_some_and(|first| first == name)).cloned().collect();
        assert!(!modules.is_empty(), "There is no module {name}");
        modules
    }
}

/// The module that a file of a crate's sources is.
fn module(file: &str) -> Module {
    let path = file.strip_suffix(".rs").unwrap_or(file);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if ["lib", "main"].contains(&path) { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

fn child(module: &Module, name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// Where paths begin, and with which name.
fn starts<'a>(tokens: &[Token<'a>]) -> Vec<(usize, &'a str)> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let begins = |at: &usize| {
        let before = if *at > 0 { text(at - 1) } else { "" };
        !["::", "."].contains(&before) && (text(at + 1) == "::" || before == "use")
    };
    (0..tokens.len()).filter(begins).map(|at| (at, text(at))).collect()
}

/// How many modules are open that stand in the file itself.
fn inner_depth(tokens: &[Token<'_>]) -> usize {
    let mut blocks = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => blocks.push(at >= 2 && tokens[at - 2].text == "mod"),
            "}" => drop(blocks.pop()),
            _ => {}
        }
    }
    blocks.into_iter().filter(|&is_module| is_module).count()
}

/// The paths that a use or an expression names from here on: several where braces have them.
fn paths<'a>(tokens: &[Token<'a>]) -> Vec<Vec<&'a str>> {
    let Some((first, rest)) = tokens.split_first() else { return vec![Vec::new()] };
    if first.text != "{" {
        let tail = match rest.first() {
            Some(next) if next.text == "::" => paths(&rest[1..]),
            _ => vec![Vec::new()],
        };
        let prepend = |mut path: Vec<&'a str>| {
            if first.text != "self" {
                path.insert(0, first.text);
            }
            path
        };
        return tail.into_iter().map(prepend).collect();
    }
    let (mut found, mut depth) = (Vec::new(), 0);
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && ["{", ","].contains(&token.text) {
            found.extend(paths(&tokens[at + 1..]).into_iter().filter(|path| path.first() != Some(&"}")));
        }
    }
    found
}

#[test]
fn no_large_circle_of_modules() {
    let sources = sources();
    for dir in CRATES {
        let graph = Graph::new(dir, &sources);
        assert!(graph.files.len() > 10, "{dir} was read");
        for circle in graph.circles() {
            assert!(
                circle.len() <= LARGEST_CIRCLE,
                "{} files use each other in a circle: {}",
                circle.len(),
                circle.join(", ")
            );
        }
    }
}

/// What is decided about a guest, and what is written into its memory, depends on no KVM: neither by itself nor by a module
/// that it uses.
#[test]
fn plan_and_boot_reach_no_kvm() {
    let graph = Graph::new("vmm/src/", &sources());
    let from: Vec<_> = ["boot", "config", "loader", "plan"].iter().flat_map(|name| graph.below(name)).collect();
    refuse(&graph, &from, &["kvm", "kvm_ioctls", "kvm_bindings"]);
}

/// A plan is made of values: no file is opened for it, and no system call made.
#[test]
fn plan_opens_no_file() {
    let sources = sources();
    let impure =
        ["fs", "File", "OpenOptions", "open", "env", "net", "process", "nix", "libc", "vmm_sys_util", "event_manager"];
    let graph = Graph::new("vmm/src/", &sources);
    let from = graph.below("plan");
    refuse(&graph, &from, &impure);
    // Of devices it knows their data alone.
    let data = [
        "endpoint::Target",
        "registry::Key",
        "registry::Kind",
        "registry::Value",
        "units",
        "virtio::ShmRegion",
        "virtio::ShmRequest",
        "virtio::config::VirtioConfig",
    ];
    for module in graph.reached(&from).keys() {
        let all = tokens(&graph.files[module].1);
        let (tokens, _) = without_tests(&all);
        for at in (0..tokens.len()).filter(|&at| tokens[at].text == "carpel_devices") {
            for path in paths(&tokens[at + 2..]) {
                let path = path.join("::");
                assert!(data.contains(&path.as_str()), "{} uses {path} of devices", graph.files[module].0);
            }
        }
    }
    let arch = Graph::new("arch/src/", &sources);
    refuse(
        &arch,
        &arch.files.keys().cloned().collect::<Vec<_>>(),
        &["fs", "File", "OpenOptions", "open", "net", "process"],
    );
}

/// Fails if one of these modules, or one that they use, has one of the words.
fn refuse(graph: &Graph, from: &[Module], words: &[&str]) {
    let reached = graph.reached(from);
    for (module, by) in &reached {
        let (name, code) = &graph.files[module];
        let all = tokens(code);
        let (tokens, _) = without_tests(&all);
        let found = tokens.iter().find(|token| words.contains(&token.text));
        let found = found.map(|token| format!("`{}` in line {}", token.text, token.line));
        assert_eq!(found, None, "{name}, which {} uses", graph.files[by].0);
    }
}

#[cfg(test)]
fn graph(files: &[(&str, &str)]) -> Graph {
    let source = |&(name, text): &(&str, &str)| Source { name: format!("x/src/{name}"), text: text.into() };
    Graph::new("x/src/", &files.iter().map(source).collect::<Vec<_>>())
}

#[test]
fn paths_lead_to_the_files_that_they_name() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b; mod c; pub use a::Thing;"),
        (
            "a/mod.rs",
            "mod inner; use inner::X; use crate::{b::{self, B}, c::C}; #[cfg(test)] mod tests { use crate::d; }",
        ),
        ("a/inner.rs", "use super::super::b; mod deep { use super::super::Thing; } // crate::c"),
        ("b.rs", "fn f() { crate::c::g(super::h::<self::i>()); }"),
        ("c.rs", "#[cfg(test)] mod tests;"),
        ("c/tests.rs", "use crate::a;"),
        ("d.rs", ""),
    ]);
    let uses = |path: &str| graph.uses[&module(path)].iter().map(|module| module.join("/")).collect::<Vec<_>>();
    assert_eq!(uses("lib.rs"), ["a"]);
    assert_eq!(uses("a/mod.rs"), ["a/inner", "b", "c"]);
    assert_eq!(uses("a/inner.rs"), ["a", "b"]);
    assert_eq!(uses("b.rs"), ["", "c"]);
    assert!(!graph.files.contains_key(&module("c/tests.rs")), "tests are left out");
}

#[test]
fn a_circle_and_what_is_reached_are_found() {
    let graph = graph(&[
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", "use crate::{a::A, d::D};"),
        ("d.rs", "use std::fs;"),
        ("e.rs", "use crate::a::A;"),
    ]);
    assert_eq!(graph.circles(), [["x/src/a.rs", "x/src/b.rs", "x/src/c.rs"]]);
    let refused = std::panic::catch_unwind(|| refuse(&graph, &graph.below("a"), &["fs"]));
    let message = *refused.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("x/src/d.rs, which x/src/c.rs uses") && message.contains("`fs` in line 1"), "{message}");
}
