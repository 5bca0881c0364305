//! Options and commands that people bring from other tools, and what serves instead here.

/// Spellings, and what is said of each behind "There is no option `X`: ".
type Words = (&'static [&'static str], &'static str);

const KERNEL: &str = "`-k, --kernel FILE` names the kernel";
const APPEND: &str = "`-a, --append TEXT` adds to the kernel command line";
const DISK: &str = "`--disk FILE` gives the guest a disk, `--disk FILE,ro` one that it cannot write to";
const NET: &str = "`--net tap=NAME` gives the guest a network interface; without it there is none";
const SHARE: &str = "shares of the host's directories are not built yet; `--disk FILE` gives the guest an image";
const VOLUME: &str =
    "shares of the host's directories are not built yet, and `-v` logs more; `--disk FILE` gives the guest an image";
const COMMAND: &str = "a command in the guest is not built yet; `--append init=PATH` names its first program";
const RIGHTS: &str =
    "carpel runs with the rights of its user, needs no others, and has no sandbox to choose; leave it out";
const NONE: &str = "nothing serves instead; `carpel run --help` lists what there is";

/// Where one dash stands before more than a letter, two do as well, as in QEMU.
const OPTIONS: &[Words] = &[
    // What boots.
    (&["-kernel", "-r", "--run", "--kimg", "--kdir", "--kernel-image", "--kernel-path", "--vmlinux"], KERNEL),
    (&["-append", "--params", "--kopt", "--kernel-args", "--kernel-cmdline", "--kernel-opts", "--boot-args"], APPEND),
    (&["-initrd", "--ramdisk", "--initrd-path"], "`-i, --initrd FILE` names the initial RAM disk"),
    (&["-bios", "-pflash", "--uefi"], "`--firmware FILE` names boot firmware"),
    (&["-boot"], "`--boot WAY` says how a kernel is entered; `--firmware FILE` boots from the guest's disks"),
    (
        &["-dtb", "--dump-dtb", "-acpitable", "-smbios"],
        "tables for the guest are made from its map; `--dry-run` prints it",
    ),
    (&["--init"], "`--append init=PATH` names the guest's first program, `--append rdinit=PATH` that of an initrd"),
    (&["--installed-kernel", "--build", "-b"], "a kernel is always named, by `-k, --kernel FILE`"),
    // The machine.
    (&["-smp", "--vcpus", "--vcpu-count", "--ncpus", "--cpu-count"], "`-c, --cpus N` sets the number of vCPUs"),
    (&["-cpu"], "`--cpu MODEL` names the processor's features; `-c, --cpus N` sets the number of vCPUs"),
    (&["--ram", "--mem-size", "--mem-size-mib", "--memory-size"], "`-m, --mem SIZE` sets the guest's memory"),
    (&["-machine", "-M"], "`--layout NAME` names the guest's physical map; there is one machine for each"),
    (
        &["-accel", "-enable-kvm", "-no-kvm", "--kvm", "--disable-kvm", "--hypervisor"],
        "guests always run on KVM; leave it out",
    ),
    (&["-no-reboot", "-no-shutdown", "-action"], "a guest that resets or powers off always ends carpel; leave it out"),
    (
        &["-no-acpi", "-no-hpet", "-nodefaults", "-no-user-config", "--disable-microvm"],
        "a guest has little more than it is given; leave it out",
    ),
    (
        &["-mem-path", "-mem-prealloc", "--hugetlbfs"],
        "`--hugepages` backs the guest's memory by huge pages, `--shared-memory` by a memfd",
    ),
    (&["-rtc"], "the guest's clock is the host's, in UTC; leave it out"),
    (&["-gdb", "-s", "-S"], "there is no gdb server; `--dump-map-on-exit` prints what a guest had mapped"),
    // Consoles and displays.
    (
        &["-nographic"],
        "a guest has no display, and its console is on the terminal; leave it out (`--console TARGET` moves it)",
    ),
    (
        &["-display", "-vga", "-vnc", "-spice", "-sdl", "-gtk", "-curses", "-full-screen", "--graphics", "--gpu"],
        "a guest has no display; `--console TARGET` says where its console goes",
    ),
    (
        &["-serial", "-parallel", "-chardev", "-debugcon"],
        "`--console TARGET` says where the guest's console goes: stdio, null, file=FILE, socket=FILE or pty",
    ),
    (
        &["-it", "-ti", "--interactive", "-itd", "-dit"],
        "the guest's console is on the terminal, which it takes as its own; leave it out (`--console TARGET` moves it)",
    ),
    (
        &["-t", "--tty", "-td", "-dt"],
        "a terminal of a command in the guest is not built yet; the guest's console is on carpel's",
    ),
    (
        &["-daemonize", "-d", "--detach", "--daemon"],
        "carpel stays in the foreground; in a shell, `&` behind it and `--console file=FILE` do it",
    ),
    // Control.
    (
        &["-monitor", "-mon", "-qmp", "--api-sock", "--api-socket", "--no-api", "--socket"],
        "nothing controls a running guest but signals and Ctrl-A x; its options say all before it starts",
    ),
    (
        &["--config-file", "-readconfig"],
        "`--config FILE` takes a configuration, as `--dry-run --format json` prints it",
    ),
    (&["--rm"], "a guest leaves nothing behind; leave it out"),
    (
        &["--kill-after", "--signal", "--preserve-status", "--foreground"],
        "`--timeout DURATION` ends the guest at once, with status 124",
    ),
    (
        &["--log-path", "--log-file", "--level", "--loglevel", "--log-level", "--debug", "-D"],
        "`-v, --verbose` logs more, to stderr; RUST_LOG chooses what",
    ),
    (&["--quiet", "-q"], "carpel says nothing unless something is wrong; leave it out"),
    (
        &["--metrics-path", "--metadata", "--event-monitor", "--cidfile", "-pidfile", "--pid-file"],
        "`--report FILE` writes the run's facts",
    ),
    (
        &[
            "--seccomp",
            "--seccomp-level",
            "--seccomp-filter",
            "--no-seccomp",
            "--seccomp-policy-dir",
            "--disable-sandbox",
        ],
        RIGHTS,
    ),
    (
        &["-sandbox", "--jail", "--landlock", "--privileged", "--cap-add", "--cap-drop", "--security-opt", "-runas"],
        RIGHTS,
    ),
    // Devices.
    (&["-device"], "`--device KIND[,key=value...]` configures a device; `carpel devices` lists the kinds"),
    (&["-hda", "-hdb", "-hdc", "-hdd", "-drive", "-blockdev", "-sd", "-mtdblock", "-fda", "-fdb"], DISK),
    (&["--block", "--block-device", "--rwdisk", "--rodisk"], DISK),
    (&["-cdrom"], "`--disk FILE,ro` gives the guest a disk that it cannot write to"),
    (&["--root", "--rwroot"], "`--disk FILE` with `--append root=/dev/vda` boots from a disk"),
    (
        &["-snapshot", "--snaps"],
        "`--disk FILE,ephemeral` gives the guest a disk on which nothing that it writes is kept",
    ),
    (&["-net", "-netdev", "-nic", "-n", "--network", "--tap", "--tap-name", "--tap-fd", "--host-ip", "--netmask"], NET),
    (&["--mac", "--mac-address"], "`--net tap=NAME,mac=ADDRESS` sets the address of a network interface"),
    (&["--cid", "--vhost-vsock"], "`--vsock cid=N,uds=PATH` connects the guest's vsock to a unix socket"),
    (&["--rng", "--no-rng"], "every guest has an entropy device; `--device rng,off` takes it away"),
    (&["--balloon", "--no-balloon"], "every guest has a memory balloon; `--device balloon,off` takes it away"),
    // What the command line will have.
    (&["--share", "--shared-dir", "--volume", "--mount", "-fsdev", "-virtfs", "--virtiofs", "--fs", "--9p"], SHARE),
    (&["--rodir", "--rwdir", "--overlay-rwdir", "--rw"], SHARE),
    (
        &["--pmem", "--pmem-device", "--rw-pmem-device"],
        "virtio-pmem is not built yet; `--disk FILE` gives the guest a disk",
    ),
    (
        &["-p", "--publish"],
        "a network that publishes the guest's ports is not built yet; `--net tap=NAME` gives it one of the host's",
    ),
    (
        &["--rootfs"],
        "a directory or image as the root is not built yet; `--disk FILE` with `--append root=/dev/vda` boots \
         from a disk",
    ),
    (&["--entrypoint", "--exec", "-e", "--env", "--env-file", "-w", "--workdir", "--pwd", "--cwd"], COMMAND),
    (&["-u", "--user", "--uid", "--gid", "--hostname", "--script-sh", "--script-exec", "--stop-timeout"], COMMAND),
    (
        &["--ci"],
        "KTAP is not judged yet: that is not built yet; `--fail-on REGEX` fails a run on what its console prints",
    ),
    (
        &["--assert-boot"],
        "a limit on the time to boot is not built yet; `--until REGEX` with `--timeout DURATION` is one",
    ),
    (&["--no-preflight", "--times", "--artifacts"], "that is not built yet"),
    (&["--shm"], "shared memory in the map is not built yet"),
    // What nothing serves.
    (
        &[
            "-audio",
            "-audiodev",
            "-soundhw",
            "-usb",
            "-usbdevice",
            "-incoming",
            "-loadvm",
            "-icount",
            "-iscsi",
            "-compat",
        ],
        NONE,
    ),
    (&["-object", "-global", "-numa", "-add-fd", "-msg", "-chroot", "-ctrl-grab", "-fw_cfg", "-tpmdev"], NONE),
    (
        &["--qemu", "--qemu-opts", "--qemu-bin", "-o"],
        "carpel is no front end of QEMU; `carpel run --help` lists what there is",
    ),
    (
        &[
            "--restart",
            "--pull",
            "--platform",
            "--label",
            "-l",
            "--dns",
            "--add-host",
            "--link",
            "--ulimit",
            "--shm-size",
        ],
        NONE,
    ),
    (&["--id", "--uuid"], "a guest needs none; leave it out"),
];

/// Commands of other tools, and commands that are to come.
const COMMANDS: &[Words] = &[
    (
        &["boot", "start", "launch", "create", "up", "vm", "spawn", "exec", "qemu"],
        "`carpel run -k FILE` boots a kernel",
    ),
    (
        &["stop", "kill", "rm", "ps", "ls", "list", "attach", "logs", "inspect", "shutdown"],
        "a guest is the process of its `carpel run`, and ends by a signal to it",
    ),
    (&["check", "info", "host", "selftest"], "`carpel doctor` checks what this host can run"),
    (&["kernel", "pull", "fetch"], "fetching kernels is not built yet; `carpel run -k FILE` boots one"),
    (&["initrd", "initramfs", "mkinitrd"], "making an initrd is not built yet; `carpel run -i FILE` takes one"),
    (&["share", "completions", "man"], "that is not built yet"),
    (&["build"], "carpel builds no kernel; `carpel run -k FILE` boots one"),
];

/// Short options that take a value where they come from, also one without a space between.
const WITH_VALUE: &[char] = &['e', 'p', 'u', 'w'];

/// What serves instead of an option that carpel does not have; `option` is without `=value`.
pub fn option(option: &str) -> Option<&'static str> {
    let one_dash = option.strip_prefix('-').filter(|rest| rest.starts_with('-') && rest.len() > 2);
    let spelled = |word: &&&str| **word == option || Some(**word) == one_dash;
    find(OPTIONS, spelled)
}

/// The same for a letter that has its value attached, if such a letter takes one.
pub fn attached(letter: char) -> Option<&'static str> {
    option(&format!("-{letter}")).filter(|_| WITH_VALUE.contains(&letter))
}

/// What serves instead of `-v` with this value, where a volume is meant.
pub fn volume(value: &str) -> Option<&'static str> {
    value.contains(':').then_some(VOLUME)
}

/// What serves instead of a command that carpel does not have.
pub fn command(command: &str) -> Option<&'static str> {
    find(COMMANDS, |word| **word == command)
}

fn find(table: &[Words], spelled: impl Fn(&&&str) -> bool) -> Option<&'static str> {
    table.iter().find(|(words, _)| words.iter().any(|word| spelled(&word))).map(|(_, answer)| *answer)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;
    use crate::scan::names;

    /// All options that carpel has, as `-x` and `--xyz`.
    fn own(command: &str) -> HashSet<String> {
        let definition = Cli::command();
        let arguments = definition.find_subcommand(command).unwrap().get_arguments().chain(definition.get_arguments());
        let spell = |argument: &clap::Arg| {
            let short = argument.get_short().map(|letter| format!("-{letter}"));
            names(argument).map(|name| format!("--{name}")).chain(short).collect::<Vec<_>>()
        };
        arguments.flat_map(spell).collect()
    }

    /// What looks like an option in a text.
    fn mentioned(text: &str) -> impl Iterator<Item = &str> {
        let is_part = |char: char| char.is_ascii_alphanumeric() || char == '-';
        text.split(move |char| !is_part(char)).filter(|word| word.starts_with('-') && word.len() > 1)
    }

    #[test]
    fn no_word_is_an_option_or_command_of_carpel() {
        let own = own("run");
        for word in OPTIONS.iter().flat_map(|(words, _)| *words) {
            assert!(!own.contains(*word), "{word}");
            assert!(word.starts_with('-') && word.len() > 1 && !word.contains('='), "{word}");
        }
        for word in COMMANDS.iter().flat_map(|(words, _)| *words) {
            assert!(Cli::command().find_subcommand(word).is_none(), "{word}");
        }
    }

    #[test]
    fn no_word_has_two_answers() {
        for table in [OPTIONS, COMMANDS] {
            let mut seen = HashSet::new();
            for word in table.iter().flat_map(|(words, _)| *words) {
                assert!(seen.insert(word.trim_start_matches('-')), "{word}");
            }
        }
    }

    #[test]
    fn answers_name_options_and_commands_that_exist() {
        let own = own("run");
        for (words, answer) in OPTIONS.iter().chain(COMMANDS) {
            for option in mentioned(answer).filter(|option| *option != "--help") {
                assert!(own.contains(option), "{option} in {answer:?} for {words:?}");
            }
            for command in answer.split("`carpel ").skip(1) {
                let name = command.split([' ', '`']).next().unwrap();
                assert!(Cli::command().find_subcommand(name).is_some(), "{name} in {answer:?}");
            }
        }
    }

    #[test]
    fn one_dash_or_two_and_a_value_that_is_attached() {
        assert_eq!(option("-smp"), option("--smp"));
        assert_eq!(
            (option("-rm"), option("---smp"), option("--M"), option("-"), option("")),
            (None, None, None, None, None)
        );
        assert!(attached('e').is_some() && attached('t').is_none() && attached('ü').is_none());
        assert!(volume("/a:/b").is_some() && volume("/a").is_none());
    }
}
