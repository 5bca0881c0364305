//! The devices that `--device` configures, and `carpel devices`, which lists them.

use std::fmt::Write as _;
use std::ptr;

use anyhow::{Context as _, Result, bail};
use carpel_devices::registry::{Kind, OFF};
use carpel_devices::virtio;
use carpel_vmm::config::{IrqchipMode, VirtioConfig};
use carpel_vmm::platform::IRQCHIP;

use crate::cli::RunArgs;

/// What all `--device` options of a guest come to.
#[derive(Debug, Default)]
pub struct Devices {
    /// Who emulates the interrupt controllers, if that was said.
    pub irqchip: Option<IrqchipMode>,
    /// The virtio devices: standard ones, then those that were asked for.
    pub virtio: Vec<VirtioConfig>,
}

impl Devices {
    /// Adds a device, or more about one that is there.
    fn add(&mut self, device: VirtioConfig) {
        let is_same = |other: &&mut VirtioConfig| ptr::eq(other.kind, device.kind);
        let single = virtio::SINGLE.iter().any(|kind| ptr::eq(*kind, device.kind));
        match self.virtio.iter_mut().find(is_same).filter(|_| single) {
            Some(other) => other.options.join(device.options),
            None => self.virtio.push(device),
        }
    }
}

/// Every kind with its keys, defaults and an example.
pub fn list() -> String {
    let mut text = String::new();
    for kind in kinds() {
        let standard = if kind.standard { "; every guest has one" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {}{standard}", kind.name, kind.about);
        for key in kind.keys {
            let _ = writeln!(text, "  {}{}  {} [default: {}]", key.name, key.value.hint(), key.about, key.default);
        }
        let _ = writeln!(text, "  example: {}", kind.example);
    }
    text
}

/// The devices of all options: short forms are what `--device` would say.
pub fn texts(args: &RunArgs) -> Vec<String> {
    let disks = args.disk.iter().map(|disk| format!("blk,path={disk}"));
    let nets = args.net.iter().map(|net| format!("net,{net}"));
    let vsocks = args.vsock.iter().map(|vsock| format!("vsock,{vsock}"));
    args.device.iter().cloned().chain(disks).chain(nets).chain(vsocks).collect()
}

/// Reads the options, each `KIND[,key=value...]`. Naming a standard kind configures the one that every guest has, or takes it
/// away; naming it again adds another.
pub fn parse(devices: &[String]) -> Result<Devices> {
    let mut all = Devices::default();
    for device in devices {
        let name = device.split(',').next().unwrap_or_default();
        if name == IRQCHIP.name {
            let options = IRQCHIP.parse(device)?;
            let mode = options.get("mode");
            all.irqchip = IrqchipMode::ALL.into_iter().find(|irqchip| mode == Some(irqchip.name())).or(all.irqchip);
        } else {
            let kind = virtio::kind(name).with_context(|| {
                let names: Vec<_> = kinds().map(|kind| kind.name).collect();
                format!("There is no device `{name}`; there is {} (see `carpel devices`)", names.join(", "))
            })?;
            all.add(VirtioConfig { kind, options: kind.kind.parse(device)? });
        }
    }
    check_alone(&all.virtio)?;
    let named = |name| all.virtio.iter().any(|device| device.kind.kind.name == name);
    let missing: Vec<_> =
        virtio::REGISTRY.iter().filter(|virtio| virtio.kind.standard && !named(virtio.kind.name)).collect();
    for kind in missing.into_iter().rev() {
        all.virtio.insert(0, VirtioConfig { kind, options: kind.kind.parse(kind.kind.name)? });
    }
    for device in &all.virtio {
        let mut others = device.options.lines().filter(|line| !line.has(OFF.name) && !line.is_plain());
        if let (true, Some(other)) = (device.options.lines().any(|line| line.has(OFF.name)), others.next()) {
            bail!("`{},off` takes away what `{}` configures", device.kind.kind.name, other.text());
        }
    }
    all.virtio.retain(|device| !device.options.lines().any(|line| line.has(OFF.name)));
    Ok(all)
}

/// Refuses what a guest has once only, and an image that two disks would write to.
fn check_alone(devices: &[VirtioConfig]) -> Result<()> {
    for (index, device) in devices.iter().enumerate() {
        let (kind, text) = (device.kind.kind.name, device.options.text());
        let path = device.options.get("path");
        for other in devices[..index].iter().filter(|other| ptr::eq(other.kind, device.kind)) {
            if virtio::LONE.iter().any(|kind| ptr::eq(*kind, device.kind)) {
                bail!("A guest has one {kind}, not both `{}` and `{text}`", other.options.text());
            }
            let reads = [device, other].iter().all(|disk| ["ro", "ephemeral"].iter().any(|key| disk.options.has(key)));
            if let (Some(path), false) = (path.filter(|path| other.options.get("path") == Some(path)), reads) {
                bail!("`{}` and `{text}` have the same image {path}; only `ro` can be shared", other.options.text());
            }
        }
    }
    Ok(())
}

fn kinds() -> impl Iterator<Item = &'static Kind> {
    std::iter::once(&IRQCHIP).chain(virtio::REGISTRY.iter().map(|virtio| &virtio.kind))
}

#[cfg(test)]
mod tests {
    use carpel_devices::registry::Options;

    use super::*;

    fn names(devices: &[&str]) -> Vec<String> {
        let devices: Vec<_> = devices.iter().map(|&device| device.to_owned()).collect();
        parse(&devices).unwrap().virtio.iter().map(|device| device.options.text().to_owned()).collect()
    }

    #[test]
    fn standard_devices_are_there_unless_taken_away() {
        assert_eq!(names(&[]), ["balloon", "console", "rng"]);
        assert_eq!(names(&["irqchip,mode=full"]), ["balloon", "console", "rng"]);
        assert_eq!(names(&["rng,rate=1K"]), ["balloon", "console", "rng,rate=1K"]);
        assert_eq!(names(&["rng", "rng,rate=1K"]), ["balloon", "console", "rng", "rng,rate=1K"]);
        assert_eq!(names(&["rng,off", "balloon,off", "console,off"]), [""; 0]);
    }

    #[test]
    fn what_is_said_of_the_console_adds_up() {
        let ports = ["console,name=a,pty", "console,name=b,pty"].map(str::to_owned);
        let devices = parse(&ports).unwrap().virtio;
        let lines: Vec<_> = devices[2].options.lines().map(Options::text).collect();
        assert_eq!((devices.len(), lines), (3, vec!["console,name=a,pty", "console,name=b,pty"]));
        let error = parse(&["console,off".into(), ports[0].clone()]).unwrap_err().to_string();
        assert_eq!(error, "`console,off` takes away what `console,name=a,pty` configures");
    }

    #[test]
    fn the_last_interrupt_controller_counts() {
        let parse = |devices: &[&str]| {
            parse(&devices.iter().map(|&device| device.to_owned()).collect::<Vec<_>>()).unwrap().irqchip
        };
        assert_eq!(parse(&["irqchip,mode=split", "irqchip,mode=full"]), Some(IrqchipMode::Full));
        assert_eq!(parse(&["irqchip,mode=gicv2"]), Some(IrqchipMode::GicV2));
        assert_eq!(parse(&[]), None);
    }
}
