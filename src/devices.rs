//! The devices that `--device` configures, and `carpel devices`, which lists them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use carpel_devices::key_values::KeyValues;
use carpel_devices::registry::Kind;
use carpel_devices::virtio::config::{self, DeviceError, KINDS, VirtioConfig};
use carpel_vmm::config::{IRQCHIP, IrqchipMode};
use serde::Deserialize;

use crate::cli::RunArgs;

/// What options say of one device.
pub struct Text {
    kind: &'static Kind,
    values: KeyValues,
}

/// What `--device irqchip` says.
#[derive(Deserialize)]
struct Irqchip {
    mode: Option<IrqchipMode>,
}

/// Every kind with its keys, defaults and an example.
pub fn list() -> String {
    let mut text = String::new();
    for kind in kinds() {
        let standard = if kind.standard { "; every guest has one" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {}{standard}", kind.name, kind.about);
        for key in kind.keys() {
            let _ = writeln!(text, "  {}{}  {} [default: {}]", key.name, key.value.hint(), key.about, key.default);
        }
        let _ = writeln!(text, "  example: {}", kind.example);
    }
    text
}

/// What all options say of devices, in the order in which devices are placed.
pub fn texts(args: &RunArgs) -> Result<Vec<Text>> {
    let short = |name: &'static str, texts: &[String]| {
        let kind = config::kind(name).context("A kind of device is missing")?;
        let text = |text: &String| Ok(Text { kind, values: KeyValues::parse_short(kind, text)? });
        texts.iter().map(text).collect::<Result<Vec<_>>>()
    };
    args.disk.iter().try_for_each(|disk| check_disk(disk))?;
    args.net.iter().try_for_each(|net| check_net(net))?;
    let vsock: Vec<_> = args.vsock.iter().cloned().collect();
    let mut texts = args.device.iter().map(|text| read(text)).collect::<Result<Vec<_>>>()?;
    texts.extend(short("blk", &args.disk)?);
    texts.extend(short("net", &args.net)?);
    texts.extend(short("vsock", &vsock)?);
    Ok(texts)
}

/// Refuses a disk that is named as other monitors name one.
fn check_disk(text: &str) -> Result<()> {
    let (key, file) = text.split_once('=').unwrap_or_default();
    if ["file", "filename", "image", "img"].contains(&key) {
        bail!("`--disk {text}`: a disk's file is named by `--disk {file}` (one called `{key}=...` by `./{key}=...`)");
    }
    Ok(())
}

/// Refuses what is not a network here, or not yet.
fn check_net(text: &str) -> Result<()> {
    let first = text.split(',').next().unwrap_or_default();
    match first {
        "none" | "off" => bail!("`--net {text}`: a guest without `--net` has no network; leave it out"),
        "user" => bail!("`--net {text}`: a network without a tap is not built yet; `--net tap=NAME` uses a tap"),
        _ if text.is_empty() || first.contains('=') => Ok(()),
        _ if config::kind("net").is_some_and(|kind| kind.key(first).is_some()) => Ok(()),
        _ => bail!("`--net {text}`: a tap is named by `--net tap={text}`"),
    }
}

/// Reads `KIND[,key=value...]`.
fn read(text: &str) -> Result<Text> {
    let name = text.split(',').next().unwrap_or_default();
    let kind = kinds().find(|kind| kind.name == name).with_context(|| {
        let names: Vec<_> = kinds().map(|kind| kind.name).collect();
        format!("There is no device `{name}`; there is {} (see `carpel devices`)", names.join(", "))
    })?;
    Ok(Text { kind, values: KeyValues::parse(kind, text)? })
}

/// The interrupt controllers that the texts name; the last word counts.
pub fn irqchip(texts: &[Text]) -> Result<Option<IrqchipMode>> {
    let mut chosen = None;
    for text in texts.iter().filter(|text| text.kind == &IRQCHIP) {
        chosen = text.values.read::<Irqchip>()?.mode.or(chosen);
    }
    Ok(chosen)
}

/// The devices of a guest that has `devices`, and what the texts add or take away. Naming a standard kind configures the one that
/// every guest has; naming it again adds another.
pub fn add(mut devices: Vec<VirtioConfig>, texts: &[Text], standard: bool) -> Result<Vec<VirtioConfig>> {
    let of_virtio = || texts.iter().filter(|text| text.kind != &IRQCHIP);
    if standard {
        let named = |kind: &Kind| of_virtio().any(|text| text.kind == kind);
        for kind in KINDS.iter().filter(|kind| kind.standard && !named(kind)) {
            devices.push(VirtioConfig::parse(kind.name)?);
        }
    }
    for text in of_virtio() {
        let name = text.kind.name;
        if text.values.is_off() {
            let configured =
                |other: &&Text| other.kind == text.kind && !other.values.is_off() && !other.values.is_plain();
            if let Some(other) = of_virtio().find(configured) {
                bail!("`{name},off` takes away what `{}` configures", other.values.text());
            }
            devices.retain(|device| device.kind() != text.kind);
            continue;
        }
        let device = VirtioConfig::from_text(text.kind, &text.values)?;
        match devices.iter_mut().find(|other| text.kind.single && other.kind() == text.kind) {
            None => devices.push(device),
            Some(other) => other.join(device).map_err(|second| DeviceError::Second {
                kind: name,
                first: other.text(),
                second: second.text(),
            })?,
        }
    }
    let is_off = |device: &VirtioConfig| of_virtio().any(|text| text.kind == device.kind() && text.values.is_off());
    devices.retain(|device| !is_off(device));
    Ok(devices)
}

fn kinds() -> impl Iterator<Item = &'static Kind> {
    std::iter::once(&IRQCHIP).chain(KINDS.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(texts: &[&str]) -> Result<Vec<VirtioConfig>> {
        let texts = texts.iter().map(|text| read(text)).collect::<Result<Vec<_>>>()?;
        add(Vec::new(), &texts, true)
    }

    fn names(texts: &[&str]) -> Vec<String> {
        devices(texts).unwrap().iter().map(VirtioConfig::text).collect()
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
    fn a_list_that_is_there_is_added_to() {
        let there = || vec![VirtioConfig::parse("rng").unwrap(), VirtioConfig::parse("console,name=a,pty").unwrap()];
        let with = |text: &str| {
            let devices = add(there(), &[read(text).unwrap()], false).unwrap();
            devices.iter().map(VirtioConfig::text).collect::<Vec<_>>()
        };
        assert_eq!(with("balloon"), ["rng", "console,name=a,pty", "balloon"]);
        assert_eq!(with("console,name=b,pty"), ["rng", "console,name=a,pty and console,name=b,pty"]);
        assert_eq!(with("rng,off"), ["console,name=a,pty"]);
    }

    #[test]
    fn what_is_said_of_the_console_adds_up() {
        let ports = ["console,name=a,pty", "console,name=b,pty"];
        let devices = devices(&ports).unwrap();
        let console = devices.iter().find(|device| device.kind().name == "console").unwrap();
        assert_eq!((devices.len(), console.texts()), (3, ports.map(str::to_owned).to_vec()));
        let error = super::tests::devices(&["console,off", ports[0]]).unwrap_err().to_string();
        assert_eq!(error, "`console,off` takes away what `console,name=a,pty` configures");
    }

    #[test]
    fn the_last_interrupt_controller_counts() {
        let parse = |texts: &[&str]| {
            irqchip(&texts.iter().map(|text| read(text)).collect::<Result<Vec<_>>>().unwrap()).unwrap()
        };
        assert_eq!(parse(&["irqchip,mode=split", "irqchip,mode=full"]), Some(IrqchipMode::Full));
        assert_eq!(parse(&["irqchip,mode=gicv2"]), Some(IrqchipMode::GicV2));
        assert_eq!(parse(&[]), None);
    }
}
