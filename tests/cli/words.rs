//! What people type by habit from other tools, and what really asks for help.

use std::fs;

use carpel_testbed::payload;

use crate::carpel::{carpel, expect_parts, hello, refusal};
use crate::guest::finish;

/// Arguments of other tools, and what serves instead.
const HABITS: &[(&[&str], &str)] = &[
    // QEMU
    (&["-kernel", "bzImage"], "--kernel FILE"),
    (&["-kernel=bzImage"], "--kernel FILE"),
    (&["-append", "console=ttyS0"], "--append TEXT"),
    (&["-append"], "--append TEXT"),
    (&["-initrd", "initrd.img"], "--initrd FILE"),
    (&["-hda", "disk.img"], "--disk FILE"),
    (&["-hdb", "disk.img"], "--disk FILE"),
    (&["-drive", "file=disk.img,if=virtio"], "--disk FILE"),
    (&["--drive", "file=disk.img,if=virtio"], "--disk FILE"),
    (&["-cdrom", "x.iso"], "--disk FILE,ro"),
    (&["-snapshot"], "--disk FILE,ephemeral"),
    (&["-net", "none"], "--net tap=NAME"),
    (&["-netdev", "user,id=n"], "--net tap=NAME"),
    (&["-nic", "user"], "--net tap=NAME"),
    (&["-cpu", "host"], "--cpu MODEL"),
    (&["-smp", "4"], "--cpus N"),
    (&["--smp=4"], "--cpus N"),
    (&["-m", "512"], "512M"),
    (&["-memory", "512M"], "`--memory`"),
    (&["-nographic"], "--console TARGET"),
    (&["-display", "none"], "--console TARGET"),
    (&["-vnc", ":0"], "--console TARGET"),
    (&["-serial", "stdio"], "--console TARGET"),
    (&["-monitor", "stdio"], "signals"),
    (&["-enable-kvm"], "KVM; leave it out"),
    (&["-accel", "kvm"], "KVM; leave it out"),
    (&["-machine", "q35"], "--layout NAME"),
    (&["-M", "microvm"], "--layout NAME"),
    (&["-bios", "x"], "--firmware FILE"),
    (&["-no-reboot"], "leave it out"),
    (&["-boot", "d"], "--firmware FILE"),
    (&["-device", "virtio-rng-pci"], "--device KIND"),
    (&["-fsdev", "local,path=/"], "not built yet"),
    (&["-virtfs", "local,path=/"], "not built yet"),
    (&["-daemonize"], "foreground"),
    (&["-timeout", "5s"], "`--timeout`"),
    (&["-audio", "none"], "nothing serves instead"),
    // docker
    (&["--rm"], "leave it out"),
    (&["-it"], "leave it out"),
    (&["-d"], "foreground"),
    (&["-v", "/a:/b"], "not built yet"),
    (&["-v/a:/b"], "not built yet"),
    (&["--volume", "/a:/b"], "not built yet"),
    (&["--mount=type=bind,source=/a"], "not built yet"),
    (&["--network", "none"], "--net tap=NAME"),
    (&["--entrypoint", "sh"], "not built yet"),
    (&["-e", "A=b"], "not built yet"),
    (&["-eA=b"], "not built yet"),
    (&["--env", "A=b"], "not built yet"),
    (&["-p", "80:80"], "not built yet"),
    (&["--publish", "80:80"], "not built yet"),
    (&["--user", "root"], "not built yet"),
    (&["--privileged"], "leave it out"),
    // virtme-ng
    (&["-r", "bzImage"], "--kernel FILE"),
    (&["--run", "bzImage"], "--kernel FILE"),
    (&["--exec", "uname"], "not built yet"),
    (&["--pwd"], "not built yet"),
    (&["--rwdir", "/x"], "not built yet"),
    // Firecracker
    (&["--api-sock", "x"], "before it starts"),
    (&["--no-api"], "before it starts"),
    (&["--config-file", "vm.json"], "`--config FILE`"),
    (&["--seccomp-level", "2"], "leave it out"),
    // crosvm, cloud-hypervisor, kvmtool
    (&["-p", "init=/bin/sh"], "not built yet"),
    (&["--params", "init=/bin/sh"], "--append TEXT"),
    (&["--kernel-args", "init=/bin/sh"], "--append TEXT"),
    (&["--rwdisk", "x"], "--disk FILE"),
    (&["--socket", "x"], "before it starts"),
    (&["--shared-dir", "/x:tag"], "not built yet"),
    (&["--memory", "size=512M"], "512M"),
    (&["--cpus", "boot=1"], "vCPUs alone: 1"),
    (&["--disk", "file=disk.img"], "`--disk disk.img`"),
    (&["--net", "tap0"], "`--net tap=tap0`"),
    (&["--net", "none"], "leave it out"),
    (&["--net", "user"], "not built yet"),
    (&["--pmem", "file=x"], "not built yet"),
    // timeout
    (&["--kill-after", "5s"], "--timeout DURATION"),
    (&["--timeout", "60"], "60s"),
    // What carpel will have.
    (&["--rootfs", "/"], "not built yet"),
    (&["--share", "/"], "not built yet"),
    (&["--ci"], "not built yet"),
];

#[test]
fn words_of_other_tools_are_answered_by_what_serves_instead() {
    for (args, answer) in HABITS {
        let line = refusal(&mut hello(args), 2);
        expect_parts(&line, &[answer]);
        assert!(!line.contains("similar"), "{line}");
        assert!(line.contains(&args[0][..2]), "{line}");
        refusal(&mut hello(&[args, &["--", "true"][..]].concat()), 125);
    }
    expect_parts(&refusal(&mut hello(&["-i", "-t"]), 2), &["`-t`", "not built yet"]);
}

#[test]
fn nothing_but_a_word_of_its_own_asks_for_help() {
    for word in ["-hda", "-hx", "-host", "-h1", "-h=x", "-vh", "-hv", "-hh", "-help", "-h-", "-hä", "--help=run"] {
        for args in [&["run", word][..], &[word], &["map", word], &["doctor", word], &["run", word, "-h"]] {
            expect_parts(&refusal(&mut carpel(args), 2), &[word.split('=').next().unwrap()]);
        }
        refusal(&mut carpel(&["run", word, "--", "true"]), 125);
    }
    for word in ["-Vx", "-vV", "-version", "-VV"] {
        expect_parts(&refusal(&mut carpel(&[word]), 2), &[word]);
    }
    // Behind `--`, and as a value, it asks for nothing.
    refusal(&mut carpel(&["run", "-k", "missing", "--", "-h"]), 125);
    refusal(&mut carpel(&["run", "-k", "missing", "--until", "--help"]), 2);
}

#[test]
fn commands_for_help_and_version_do_as_the_options_do() {
    let output = |args: &[&str]| {
        let outcome = finish(&mut carpel(args)).expect_status(0);
        assert_eq!(outcome.stderr, "", "{args:?}");
        outcome.stdout
    };
    assert_eq!(output(&["version"]), concat!("carpel ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(output(&["--version"]), output(&["version"]));
    assert_eq!(output(&["help"]), output(&["--help"]));
    for command in ["run", "map", "devices", "doctor", "help", "version"] {
        let help = output(&["help", command]);
        assert!(help.contains(&format!("Usage: carpel {command}")), "{help}");
        assert_eq!(output(&[command, "--help"]), help);
        assert_eq!(output(&[command, "-h"]), help);
    }
    expect_parts(&refusal(&mut carpel(&["help", "boot"]), 2), &["'boot'", "carpel run -k FILE"]);
    expect_parts(&refusal(&mut carpel(&["help", "run", "map"]), 2), &["'map'"]);
    expect_parts(&refusal(&mut carpel(&["run", "help"]), 2), &["'help'", "`carpel help run`"]);
}

#[test]
fn unknown_commands_are_answered() {
    for command in ["boot", "vmlinuz", "", "--", "-"] {
        expect_parts(&refusal(&mut carpel(&[command, "--rm", "-h"]), 2), &[command]);
    }
    for command in ["boot", "start", "vmlinuz", "./bzImage"] {
        expect_parts(&refusal(&mut carpel(&[command]), 2), &[command, "`carpel run -k FILE`", "see `carpel --help`"]);
    }
    expect_parts(&refusal(&mut carpel(&["rnu"]), 2), &["'rnu'", "'run'"]);
    expect_parts(&refusal(&mut carpel(&["kernel", "list"]), 2), &["'kernel'", "not built yet"]);
    expect_parts(&refusal(&mut carpel(&["stop"]), 2), &["'stop'", "signal"]);
}

#[test]
fn an_option_of_another_command_is_told_from_an_unknown_one() {
    expect_parts(&refusal(&mut carpel(&["-k", "bzImage"]), 2), &["'-k'", "`carpel run` has '-k'"]);
    expect_parts(&refusal(&mut carpel(&["--mem", "1G", "run"]), 2), &["'--mem'", "`carpel run` has '--mem'"]);
    expect_parts(&refusal(&mut carpel(&["map", "--append", "x"]), 2), &["'--append'", "`carpel run` has"]);
    expect_parts(&refusal(&mut carpel(&["doctor", "--arch", "x"]), 2), &["'--arch'", "`carpel map` has"]);
    expect_parts(&refusal(&mut carpel(&["run", "--version"]), 2), &["'--version'", "`carpel` has"]);
}

#[test]
fn guesses_are_near() {
    for (typed, meant) in
        [("--kernal", "--kernel"), ("--timout", "--timeout"), ("--nat", "--net"), ("--cmdlien", "--cmdline")]
    {
        expect_parts(&refusal(&mut hello(&[typed, "x"]), 2), &[typed, meant]);
    }
    for far in ["--frob", "--k", "--xy", "--port", "--hardware", "--firm", "---", "--=", "--kernelimage"] {
        let line = refusal(&mut hello(&[far]), 2);
        assert!(!line.contains("similar"), "{line}");
    }
}

#[test]
fn attached_values_stay_values() {
    let kernel = payload::path("hello").display().to_string();
    let attached = format!("-k{kernel}");
    for args in [&[&attached, "-m256M", "-c2", "-vv"][..], &[&attached, "-m=256M", "-vc2", "-aquiet"]] {
        let outcome = finish(&mut carpel(&[&["run", "--dry-run"], args].concat())).expect_status(0);
        assert!(outcome.stdout.contains("2 vCPU(s)"), "{outcome:?}");
    }
    // A kernel of that name is not out of reach.
    let directory = tempfile::tempdir().unwrap();
    fs::copy(&kernel, directory.path().join("ernel")).unwrap();
    for args in [&["-k", "ernel"][..], &["-k=ernel"], &["--kernel=ernel"]] {
        let mut command = carpel(&[&["run", "--dry-run"], args].concat());
        finish(command.current_dir(&directory)).expect_status(0);
    }
}

#[test]
fn values_are_not_taken_for_options() {
    for value in ["-h", "--help", "-hda", "--rm", "-append", "-it", "--", "-"] {
        let outcome = finish(&mut hello(&["--dry-run", "-a", value, "--until", value])).expect_status(0);
        assert!(outcome.stdout.contains(&format!("command line: {value}\n")), "{outcome:?}");
    }
}

#[test]
fn a_disk_is_named_by_its_file_or_by_keys() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("path=x"), [0; 512]).unwrap();
    fs::write(directory.path().join("x"), [0; 1024]).unwrap();
    for disk in ["x", "path=x", "path=x,ro", "id=a,path=x", "./path=x,ro"] {
        let outcome = finish(hello(&["--dry-run", "--disk", disk]).current_dir(&directory)).expect_status(0);
        assert!(outcome.stdout.contains("device: blk "), "{outcome:?}");
    }
}
