//! Configuration files: what a dry run prints is read again, and what is wrong with a file is told by key and line.

#![cfg(target_arch = "x86_64")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use carpel_testbed::payload;
use serde_json::Value;
use tempfile::{TempDir, tempdir};

/// A directory with the files that examples name.
fn scratch() -> TempDir {
    let scratch = tempdir().unwrap();
    for name in ["bzImage", "vmlinux", "kernel"] {
        fs::copy(payload::path("hello"), scratch.path().join(name)).unwrap();
    }
    fs::write(scratch.path().join("initrd"), "initrd").unwrap();
    scratch
}

fn shell(directory: &Path, script: &str) -> Output {
    Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap()
}

/// What `carpel run` prints with these arguments, as a shell reads them.
fn carpel(directory: &Path, arguments: &str) -> Result<String, String> {
    let output = shell(directory, &format!("exec {} run {arguments}", env!("CARGO_BIN_EXE_carpel")));
    let stderr = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        Some(2) => Err(stderr.strip_suffix('\n').unwrap().strip_prefix("carpel: ").unwrap().to_owned()),
        status => panic!("{arguments}: {status:?} {stderr}"),
    }
}

fn dry_run(directory: &Path, arguments: &str) -> Value {
    let text = carpel(directory, &format!("{arguments} --dry-run --format json"));
    serde_json::from_str(&text.unwrap_or_else(|error| panic!("{arguments}: {error}"))).unwrap()
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The file in the documentation.
fn example() -> String {
    document("docs/config.md").split("```json\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// The paths of all keys; elements of a list are alike.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = format!("{path}.{key}");
                keys(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, path, found)),
        _ => {}
    }
}

fn all_keys(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(value, "", &mut found);
    found
}

#[test]
fn examples_of_the_readme_come_back_from_a_file() {
    let scratch = scratch();
    let readme =
        document("README.md").replace("/boot/vmlinuz-6.1.0-cloud-amd64", "bzImage").replace("initrd.img", "initrd");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    ")?.split(" # ").next());
    let examples: Vec<_> =
        lines.filter_map(|line| line.split_once("carpel run ").map(|(_, rest)| rest.trim())).collect();
    assert!(examples.len() >= 10, "{examples:?}");
    for arguments in examples {
        let arguments = arguments.replace("--dry-run", "");
        // Firmware of another package: any file of its size will do for a plan.
        fs::write(scratch.path().join("bios.bin"), vec![0; 256 << 10]).unwrap();
        let arguments = arguments.replace("/usr/share/seabios/bios-256k.bin", "bios.bin");
        let first = dry_run(scratch.path(), &arguments);
        for file in [&first, &first["config"]] {
            fs::write(scratch.path().join("guest.json"), file.to_string()).unwrap();
            assert_eq!(dry_run(scratch.path(), "--config guest.json"), first, "{arguments}");
        }
    }
}

#[test]
fn the_documented_file_has_every_key_and_comes_back() {
    let scratch = scratch();
    fs::write(scratch.path().join("guest.json"), example()).unwrap();
    let whole = dry_run(scratch.path(), "--config guest.json");
    let example: Value = serde_json::from_str(&example()).unwrap();
    assert_eq!(whole["config"], example);
    let devices = ["balloon", "blk", "console", "net", "rng", "vsock"];
    assert!(devices.iter().all(|name| all_keys(&example).contains(&format!(".devices.{name}"))));
    // With no choice of its own, the file has the same keys: none is left out where it is `null`.
    let short = dry_run(scratch.path(), "-k bzImage");
    for key in all_keys(&short["config"]).iter().filter(|key| !key.starts_with(".devices")) {
        assert!(all_keys(&example).contains(key), "docs/config.md lacks {key}");
    }
}

#[test]
fn options_win_and_lists_are_appended() {
    let scratch = scratch();
    fs::write(scratch.path().join("guest.json"), example()).unwrap();
    let file = dry_run(scratch.path(), "--config guest.json")["config"].clone();
    let with = |arguments: &str| dry_run(scratch.path(), &format!("--config guest.json {arguments}"))["config"].clone();
    assert_eq!(with("-m 2G")["mem"], 2_u64 << 30);
    assert_eq!(with("-c 2")["cpus"]["count"], 2);
    assert_eq!(with("--console null")["run"]["console"], "null");
    fs::write(scratch.path().join("short.json"), r#"{"kernel": "bzImage"}"#).unwrap();
    for option in ["hugepages", "shared-memory"] {
        let config =
            |more: &str| dry_run(scratch.path(), &format!("--config short.json {more}"))["config"][option].clone();
        assert_eq!((config(""), config(&format!("--{option}"))), (false.into(), true.into()));
    }
    assert_eq!(with("-a x")["append"], serde_json::json!(["quiet", "loglevel=4", "x"]));
    let count = file["devices"].as_array().unwrap().len();
    assert_eq!(with("--disk other.img")["devices"].as_array().unwrap().len(), count + 1);
    assert_eq!(with("--device rng,off")["devices"].as_array().unwrap().len(), count - 1);
    let ports = with("--device console,name=more,pty")["devices"][2]["console"]["ports"].clone();
    assert_eq!(ports.as_array().unwrap().len(), 4);
}

#[test]
fn a_file_has_no_device_that_it_does_not_name() {
    let scratch = scratch();
    fs::write(scratch.path().join("guest.json"), r#"{"kernel": "bzImage"}"#).unwrap();
    let whole = dry_run(scratch.path(), "--config guest.json");
    assert_eq!(whole["config"]["devices"], serde_json::json!([]));
    assert_eq!(whole["config"]["mem"], 1_u64 << 30);
    assert_eq!(whole["config"]["layout"], Value::Null);
    assert_eq!(whole["plan"]["layout"], "krun");
}

#[test]
fn what_is_wrong_with_a_file_is_told_by_key_and_line() {
    let scratch = scratch();
    let path = scratch.path().join("guest.json");
    let error = |text: &[u8]| {
        fs::write(&path, text).unwrap();
        let error = carpel(scratch.path(), "--config guest.json --dry-run").unwrap_err();
        error.strip_prefix("Cannot read the configuration guest.json: ").unwrap_or_else(|| panic!("{error}")).to_owned()
    };
    let wrong: &[(&str, &[&str])] = &[
        ("{\n\"memory\": 1}", &["`memory`", "unknown field", "line 2"]),
        ("{\"mem\": 1,\n\"mem\": 2}", &["duplicate field `mem`", "line 2"]),
        ("{\"mem\": \"1G\"}", &["`mem`", "invalid type", "line 1"]),
        ("{\"mem\": -1}", &["`mem`", "line 1"]),
        ("{\"mem\": 1.5}", &["`mem`", "line 1"]),
        ("{\"run\": {\n\"timeout\": \"soon\"}}", &["`run.timeout`", "line 2"]),
        ("{\"run\": {\"until\": [\"a\"]}}", &["`run.until`", "line 1"]),
        ("{\"devices\": [\n{\"blk\": {\"path\": \"a\",\n\"speed\": 1}}]}", &["`devices[0].blk.speed`", "line 3"]),
        ("{\"devices\": [{\"disk\": {}}]}", &["`devices[0]", "unknown variant `disk`", "line 1"]),
        ("{\"devices\": [{\"rng\": {\"rate\": 0}}]}", &["`devices[0].rng.rate`", "line 1"]),
        ("{\"cpu\": \"host,+warp\"}", &["`cpu`", "There is no feature `warp`"]),
        ("{\"cpus\": {\"count\": 4, \"sockets\": 3}}", &["`cpus`", "4 vCPUs are not sockets"]),
        ("{\"arch\": \"m68k\"}", &["`arch`", "m68k"]),
        ("{\"kernel\": \"\u{FFFF}", &["EOF", "line 1"]),
        ("", &["EOF"]),
        ("[]", &["expected an object", "line 1"]),
        ("{\"kernel\": \"a\",\n\"run\": []}", &["`run`", "expected an object", "line 2"]),
        ("{\"cpus\": [4]}", &["`cpus`", "line 1"]),
        ("{\"devices\": [\n\n{\"rng\": [5]}]}", &["`devices[0].rng`", "expected an object", "line 3"]),
        ("{} {}", &["trailing", "line 1"]),
        ("{\"config\": {\"mem\": true}, \"plan\": null}", &["`config.mem`", "line 1"]),
        ("{\"config\": {}, \"plan\": {}, \"more\": 1}", &["`more`", "line 1"]),
    ];
    for (text, parts) in wrong {
        let error = error(text.as_bytes());
        for part in *parts {
            assert!(error.contains(part), "{text}: {part} is not in {error}");
        }
    }
    assert!(error(b"{\"kernel\": \"\xFF\"}").contains("line 1"));
    assert_eq!(error(" ".repeat((1 << 20) + 1).as_bytes()), "It is larger than 1048576 bytes");
    fs::remove_file(&path).unwrap();
    let missing = carpel(scratch.path(), "--config guest.json --dry-run").unwrap_err();
    assert!(missing.starts_with("Cannot read the configuration guest.json: No such file"), "{missing}");
}

#[test]
fn rules_hold_for_files_as_for_options() {
    let scratch = scratch();
    let path = scratch.path().join("guest.json");
    let error = |devices: &str| {
        fs::write(&path, format!("{{\"kernel\": \"bzImage\", \"devices\": [{devices}]}}")).unwrap();
        carpel(scratch.path(), "--config guest.json --dry-run").unwrap_err()
    };
    let vsock = r#"{"vsock": {"uds": "a"}}"#;
    assert!(error(&format!("{vsock}, {vsock}")).starts_with("A guest has one vsock, not both"));
    let disk = r#"{"blk": {"path": "a.img"}}"#;
    assert!(error(&format!("{disk}, {disk}")).contains("have the same image a.img"));
    assert!(error(r#"{"blk": {}}"#).contains("A disk needs an image"));
    assert!(error(r#"{"balloon": {"size": 4294967296}}"#).contains("all of the guest's memory"));
    assert!(error(r#"{"console": {"ports": [{"name": "a"}]}}"#).contains("needs one of file, socket and pty"));
    assert!(error(r#"{"vsock": {"uds": "a", "cid": 2}}"#).contains("cid=2"));
}

#[test]
fn values_are_quoted_and_units_judged() {
    let scratch = scratch();
    let devices =
        |arguments: &str| dry_run(scratch.path(), &format!("-k bzImage {arguments}"))["config"]["devices"].clone();
    assert_eq!(devices(r#"--disk '"a,b.img",ro'"#)[3]["blk"]["path"], "a,b.img");
    assert_eq!(devices("--disk a=b.img")[3]["blk"]["path"], "a=b.img");
    assert_eq!(devices("--disk ./path=x")[3]["blk"]["path"], "./path=x");
    assert_eq!(devices("--disk path=x")[3]["blk"]["path"], "x");
    let error = |arguments: &str| carpel(scratch.path(), &format!("-k bzImage --dry-run {arguments}")).unwrap_err();
    assert!(error("--vsock cid=3K,uds=a").contains("`cid` takes a whole number from 1 up, not `3K`"));
    assert!(error(r#"--disk '"a,b.img'"#).contains("a double quote is missing"));
    assert!(error(r#"--disk '"a"b'"#).contains("only a comma may follow a quoted value"));
}
