//! From arguments to a configuration: what the command line names wins over what a file says, and lists are appended.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use carpel_arch::map::Arch;
use carpel_arch::x86_64::cpu::CpuModel;
use carpel_devices::endpoint::Target;
use carpel_vmm::config::{Announce, Config, IrqchipMode, Limits};

use crate::cli::{Announcement, GuestArgs, RunArgs};
use crate::config_file;
use crate::devices;

/// The configuration of `carpel map`.
pub fn guest(args: &GuestArgs, arch: Option<Arch>) -> Config {
    let mut config = Config { arch, ..Config::default() };
    apply_guest(&mut config, args);
    config
}

/// The configuration of `carpel run`.
pub fn run(args: &RunArgs) -> Result<Config> {
    let mut config = args.config.as_deref().map_or_else(|| Ok(Config::default()), config_file::read)?;
    apply_guest(&mut config, &args.guest);
    let layout = config.layout()?;
    if Some(layout.arch) != Arch::HOST {
        bail!("A guest for {} cannot run on this host", layout.arch);
    }
    set_some(&mut config.cmdline, args.cmdline.as_ref());
    config.hugepages |= args.backing.hugepages;
    config.shared_memory |= args.backing.shared_memory;
    config.append.extend(args.append.iter().cloned());
    if let Some(cpu) = &args.cpu {
        if layout.arch != Arch::X86_64 {
            bail!("`--cpu {cpu}`: there is a choice on x86_64 only");
        }
        config.cpu = CpuModel::parse(cpu).with_context(|| format!("Cannot use `--cpu {cpu}`"))?;
    }
    let texts = devices::texts(args)?;
    config.irqchip = devices::irqchip(&texts)?.or(config.irqchip);
    config.devices = devices::add(config.devices, &texts, args.config.is_none())?;
    if let Some(announce) = args.announce {
        config.announce = match announce {
            Announcement::Tables => Announce::Tables,
            Announcement::Cmdline => Announce::Cmdline,
        };
    }
    apply_limits(&mut config.run, args)?;
    Ok(config)
}

fn apply_guest(config: &mut Config, args: &GuestArgs) {
    set(&mut config.mem, args.mem);
    set(&mut config.cpus, args.cpus);
    set_some(&mut config.layout, args.layout.as_ref());
    set_some(&mut config.firmware, args.firmware.as_ref());
    set_some(&mut config.kernel, args.kernel.as_ref());
    set_some(&mut config.boot, args.boot.as_ref());
    config.initrd.extend(args.initrd.iter().cloned());
    let irqchip = args.gic.map(|version| if version == 2 { IrqchipMode::GicV2 } else { IrqchipMode::GicV3 });
    set_some(&mut config.irqchip, irqchip.as_ref());
}

/// What ends the run besides the guest, and what is looked at.
fn apply_limits(run: &mut Limits, args: &RunArgs) -> Result<()> {
    if let Some(target) = &args.console {
        run.console = console(target)?;
    }
    set_some(&mut run.timeout, args.timeout.as_ref());
    set_some(&mut run.watchdog, args.watchdog.as_ref());
    set_some(&mut run.until, args.until.as_ref());
    run.fail_on.extend(args.fail_on.iter().cloned());
    set_some(&mut run.die_with_parent, args.die_with_parent.as_ref());
    run.report.extend(args.report.iter().cloned());
    set_some(&mut run.name, args.name.as_ref());
    run.dump_map |= args.dump_map_on_exit;
    Ok(())
}

fn set<T>(value: &mut T, named: Option<T>) {
    if let Some(named) = named {
        *value = named;
    }
}

fn set_some<T: Clone>(value: &mut Option<T>, named: Option<&T>) {
    if named.is_some() {
        *value = named.cloned();
    }
}

/// Where the console goes.
fn console(target: &str) -> Result<Target> {
    match target.split_once('=') {
        None if target == "stdio" => Ok(Target::Stdio),
        None if target == "null" => Ok(Target::Null),
        None if target == "pty" => Ok(Target::Pty),
        Some(("file", path)) if !path.is_empty() => Ok(Target::File(PathBuf::from(path))),
        Some(("socket", path)) if !path.is_empty() => Ok(Target::Socket(PathBuf::from(path))),
        _ => bail!("`--console {target}` is none of stdio, null, file=FILE, socket=FILE and pty"),
    }
}
