//! From arguments to a configuration: names become what they name.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use carpel_arch::LAYOUTS;
use carpel_arch::map::{Arch, Bytes, Layout};
use carpel_arch::x86_64::cpu::CpuModel;
use carpel_devices::endpoint::Target;
use carpel_devices::virtio::balloon;
use carpel_vmm::config::{Announce, Config, IrqchipMode, Limits};

use crate::cli::{Announcement, GuestArgs, RunArgs};
use crate::devices;

/// The configuration of `carpel map`.
pub fn guest(args: &GuestArgs, arch: Option<Arch>) -> Result<Config> {
    let arch = arch.or(Arch::HOST).context("No layout is known for this host's architecture")?;
    Ok(Config {
        layout: layout(arch, args.layout.as_deref())?,
        mem: args.mem,
        topology: args.cpus,
        cpu: CpuModel::default(),
        firmware: args.firmware.clone(),
        kernel: args.kernel.clone(),
        boot: args.boot,
        initrd: args.initrd.clone(),
        append: Vec::new(),
        irqchip: args.gic.map(|version| if version == 2 { IrqchipMode::GicV2 } else { IrqchipMode::GicV3 }),
        virtio: Vec::new(),
        announce: Announce::default(),
    })
}

/// The configuration of `carpel run`.
pub fn run(args: &RunArgs) -> Result<Config> {
    let mut config = guest(&args.guest, None)?;
    config.append.clone_from(&args.append);
    if let Some(cpu) = &args.cpu {
        if config.layout.arch != Arch::X86_64 {
            bail!("`--cpu {cpu}`: there is a choice on x86_64 only");
        }
        config.cpu = CpuModel::parse(cpu).with_context(|| format!("Cannot use `--cpu {cpu}`"))?;
    }
    let devices = devices::parse(&devices::texts(args))?;
    config.irqchip = devices.irqchip.or(config.irqchip);
    config.virtio = devices.virtio;
    check_balloon(&config)?;
    config.announce = match args.announce {
        Announcement::Tables => Announce::Tables,
        Announcement::Cmdline => Announce::Cmdline,
    };
    Ok(config)
}

/// Linux would look for the last page for ever.
fn check_balloon(config: &Config) -> Result<()> {
    for device in config.virtio.iter().filter(|device| device.kind.kind.name == balloon::KIND.kind.name) {
        if device.options.size("size").is_some_and(|size| size >= config.mem) {
            let (text, mem) = (device.options.text(), Bytes(config.mem));
            bail!("`{text}` would take all of the guest's memory, which is {mem}: its `size` must be smaller");
        }
    }
    Ok(())
}

/// What ends the run besides the guest.
pub fn limits(args: &RunArgs) -> Limits {
    Limits {
        timeout: args.timeout,
        watchdog: args.watchdog,
        until: args.until.clone(),
        fail_on: args.fail_on.clone(),
        dump_map: args.dump_map_on_exit,
    }
}

/// Where the console goes.
pub fn console(target: &str) -> Result<Target> {
    match target.split_once('=') {
        None if target == "stdio" => Ok(Target::Stdio),
        None if target == "null" => Ok(Target::Null),
        None if target == "pty" => Ok(Target::Pty),
        Some(("file", path)) if !path.is_empty() => Ok(Target::File(PathBuf::from(path))),
        Some(("socket", path)) if !path.is_empty() => Ok(Target::Socket(PathBuf::from(path))),
        _ => bail!("`--console {target}` is none of stdio, null, file=FILE, socket=FILE and pty"),
    }
}

/// The layout of this name, or the architecture's default.
fn layout(arch: Arch, name: Option<&str>) -> Result<&'static Layout> {
    let layouts = || LAYOUTS.iter().copied().filter(|layout| layout.arch == arch);
    let found = layouts().find(|layout| name.is_none_or(|name| layout.name == name));
    found.with_context(|| {
        let names: Vec<_> = layouts().map(|layout| layout.name).collect();
        format!("There is no layout `{}` for {arch}; there is {}", name.unwrap_or_default(), names.join(", "))
    })
}
