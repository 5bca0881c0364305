//! Wrong values, and names of nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::carpel::{carpel, expect_parts, hello, refusal};
use crate::guest::finish;

/// Arguments of `carpel run` that are wrong whatever the kernel, and what the message must hold.
const WRONG: &[(&[&str], &[&str])] = &[
    (&["-m", "0"], &["0 B", "the least --mem that works is "]),
    (&["-m", "4097"], &["4097", "4096"]),
    (&["-m", "4K"], &["4 KiB", "the least --mem that works is "]),
    (&["-m", "1000000000000000"], &["guest physical address bits", "limit"]),
    (&["-m", "16777215T"], &["guest physical address bits", "limit"]),
    (&["-m", "99999999T"], &["'99999999T'", "64 bits"]),
    (&["-m", "lots"], &["'lots'", "--mem", "such as 512M"]),
    (&["-m", "-5"], &["'-5'", "--mem", "such as 512M"]),
    (&["-m", "1.5X"], &["'1.5X'", "--mem", "such as 512M"]),
    (&["-m", "0.3G"], &["'0.3G'", "--mem", "no whole number of bytes"]),
    (&["-m", "1.1M"], &["'1.1M'", "--mem", "no whole number of bytes"]),
    (&["-m", "512"], &["'512'", "--mem", "in MiB it is 512M"]),
    (&["-m4096"], &["'4096'", "--mem", "in MiB it is 4096M"]),
    (&["--memory", "size=512M,shared=on"], &["'size=512M,shared=on'", "a size alone: 512M"]),
    (&["-m", ""], &["''", "--mem"]),
    (&["-c", "0"], &["0 vCPUs", "1 to 64"]),
    (&["-c", "65"], &["65 vCPUs", "1 to 64"]),
    (&["-c", "10000"], &["10000 vCPUs", "1 to 64"]),
    (&["-c", "4294967296"], &["'4294967296'", "--cpus"]),
    (&["-c", "-1"], &["'-1'", "--cpus"]),
    (&["--cpus", "boot=2,max=4"], &["'boot=2,max=4'", "vCPUs alone: 2"]),
    (&["-c", "1.5"], &["'1.5'", "--cpus"]),
    (&["-c", "two"], &["'two'", "--cpus"]),
    (&["-a", "rööt=/dev/vda"], &["rööt=/dev/vda", "ASCII"]),
    (&["-a", "quiet\nsplash"], &["quiet\\nsplash", "ASCII"]),
    (&["--layout", "ibm"], &["`ibm`", "x86_64", "krun", "crosvm"]),
    (&["--layout", "a\nb\x1b[31m"], &["`a\\nb\\u{1b}[31m`"]),
    (&["--untill", "x"], &["'--untill'", "a similar argument exists: '--until'"]),
    (&["--frobnicate"], &["'--frobnicate'", "see `carpel run --help`"]),
    (&["stray"], &["'stray'", "named by --kernel FILE"]),
    (&["--device", "sound"], &["`sound`", "irqchip", "carpel devices"]),
    (&["--device", "irqchip,colour=red"], &["irqchip,colour=red", "`colour`", "mode"]),
    (&["--device", "irqchip,mode=none"], &["irqchip,mode=none", "split", "full", "`none`"]),
    (&["--device", "irqchip,mode"], &["irqchip,mode", "`mode`", "split", "full"]),
    (&["--device", ""], &["carpel devices"]),
    (&["--timeout", "0"], &["'0'", "--timeout"]),
    (&["--timeout", "0s"], &["'0s'", "--timeout", "before it starts"]),
    (&["--timeout", "60"], &["'60'", "--timeout", "60s"]),
    (&["--timeout", "1e9s"], &["'1e9s'", "--timeout", "such as 30s"]),
    (&["--timeout", "99999999999h"], &["'99999999999h'", "--timeout", "centuries"]),
    (&["--timeout", "soon"], &["'soon'", "--timeout", "such as 30s"]),
    (&["--watchdog", "1d"], &["'1d'", "--watchdog", "such as 30s"]),
    (&["--timeout", "-1s"], &["'-1s'", "--timeout", "such as 30s"]),
    (&["--timeout", "--dry-run"], &["'--dry-run'", "--timeout"]),
    (&["--until", ""], &["--until <REGEX>", "value is required"]),
    (&["--fail-on", ""], &["--fail-on <REGEX>", "value is required"]),
    (&["--gic", "4"], &["'4'", "2 and 3"]),
    (&["--device", "balloon,size=2G"], &["`balloon,size=2G`", "1 GiB", "must be smaller"]),
    (&["--firmware", "/dev/null"], &["/dev/null", "It is a device"]),
    (&["--until", "("], &["`(`", "regular expression", "unclosed group"]),
    (&["--fail-on", "a{99999}{99999}"], &["`a{99999}{99999}`", "regular expression"]),
    (&["--console", "socket"], &["`--console socket`", "stdio, null"]),
    (&["--console", "file="], &["`--console file=`", "file=FILE"]),
    (&["--console", "file=missing/log"], &["missing/log", "No such file or directory"]),
    (&["--report", "missing/run.json"], &["missing/run.json", "No such file or directory"]),
    (&["--report", "/"], &["to /: Is a directory"]),
    (&["--dry-run", "--dry-run"], &["--dry-run", "multiple times"]),
    (&["--mem"], &["--mem <SIZE>", "value is required"]),
];

#[test]
fn wrong_arguments_are_told_with_their_values() {
    for (args, parts) in WRONG {
        expect_parts(&refusal(&mut hello(args), 2), parts);
    }
}

/// Devices that no host can make.
const IMPOSSIBLE: &[&str] = &[
    "net,nonsense=1",
    "net,mtu=1500",
    "net,tap=a/b",
    "net,tap=tap0,mac=01:00:00:00:00:00",
    "net,tap=tap0,queues=17",
    "blk",
    "blk,path=disk.img,queues=17",
    "blk,path=disk.img,id=longer-than-20-bytes-are",
    "blk,path=disk.img,ephemeral,engine=uring",
    "vsock",
    "vsock,uds=vm.sock,cid=2",
    "console,name=log",
    "console,name=.,pty",
    "balloon,size=99999T",
];

#[test]
fn a_dry_run_tells_of_a_wrong_device_as_a_run_does() {
    for device in IMPOSSIBLE {
        let line = refusal(&mut hello(&["--device", device]), 2);
        expect_parts(&line, &[&format!("`{device}`")]);
        assert_eq!(refusal(&mut hello(&["--dry-run", "--device", device]), 2), line);
    }
}

#[test]
fn with_a_command_wrong_arguments_give_125() {
    for (args, _) in WRONG.iter().filter(|(args, _)| args.len() == 2) {
        let args = [args, &["--", "true"][..]].concat();
        refusal(&mut hello(&args), 125);
    }
    refusal(&mut carpel(&["run", "-k", "missing", "--", "true"]), 125);
}

#[test]
fn sizes_and_durations_are_taken_as_people_write_them() {
    for size in ["1.5G", "512MiB", "512mb", "0.25G", "1048576K", "268435456"] {
        let outcome = finish(&mut hello(&["--dry-run", "-m", size, "--timeout", "1.5s", "--watchdog", "0.5m"]));
        assert_eq!(outcome.expect_status(0).stderr, "", "{size}");
    }
}

#[test]
fn without_anything_to_do_the_message_says_what_to_name() {
    expect_parts(&refusal(&mut carpel::<&str>(&[]), 2), &["carpel --help"]);
    expect_parts(&refusal(&mut carpel(&["run"]), 2), &["no kernel", "--kernel FILE"]);
    expect_parts(&refusal(&mut carpel(&["run", "-k", ""]), 2), &["--kernel <FILE>"]);
    expect_parts(&refusal(&mut carpel(&["launch"]), 2), &["'launch'", "see `carpel --help`"]);
    expect_parts(&refusal(&mut carpel(&["map", "--phys-bits", "many"]), 2), &["'many'", "32 to 52"]);
    expect_parts(&refusal(&mut carpel(&["map", "--arch", "vax"]), 2), &["'vax'", "x86_64, aarch64, riscv64"]);
    expect_parts(&refusal(&mut carpel(&["map", "--format", "yaml"]), 2), &["'yaml'", "text, json, markdown"]);
    expect_parts(&refusal(&mut carpel(&["map", "--phys-bits", "99"]), 2), &["99", "32 to 52"]);
    expect_parts(&refusal(&mut carpel(&["map", "-m", "0"]), 2), &["0 B", "least --mem"]);
    expect_parts(&refusal(&mut carpel(&["map", "-k", "missing"]), 2), &["missing", "No such file or directory"]);
}

#[test]
fn arguments_that_are_no_text_are_refused() {
    let mut command = hello(&["-a"]);
    command.arg(OsStr::from_bytes(b"root=\xFF"));
    expect_parts(&refusal(&mut command, 2), &["UTF-8", "'--append <TEXT>'", "root=\\xff"]);
    for strange in [&b"\xFF"[..], b"-\xFF", b"--\xFF=x", b"-h\xFF"] {
        refusal(hello(&[]).arg(OsStr::from_bytes(strange)), 2);
        refusal(carpel::<&str>(&[]).arg(OsStr::from_bytes(strange)), 2);
    }
}

#[test]
fn the_least_memory_is_named_and_works() {
    for layout in ["krun", "crosvm"] {
        let line = refusal(&mut hello(&["--layout", layout, "-m", "64K"]), 2);
        let (_, least) = line.split_once("the least --mem that works is ").unwrap();
        let least = least.split(':').next().unwrap();
        let outcome = finish(&mut hello(&["--layout", layout, "-m", least])).expect_status(0);
        assert_eq!(outcome.stdout, "Hello from a guest\n", "{layout}");
        let less = least.trim_end_matches('M').parse::<u64>().unwrap() - 1;
        refusal(&mut hello(&["--layout", layout, "-m", &format!("{less}M")]), 2);
    }
}

#[test]
fn the_longest_command_line_works_and_one_byte_more_does_not() {
    let text = |length: usize| "x".repeat(length);
    let outcome = finish(&mut hello(&["-a", &text(2047)])).expect_status(0);
    assert_eq!(outcome.stdout, "Hello from a guest\n");
    for length in [2048, 100_000] {
        let line = refusal(&mut hello(&["-a", &text(length)]), 2);
        expect_parts(&line, &[&format!("{length} bytes"), "limit is 2047"]);
        assert!(line.len() < 300, "{line}");
    }
}
