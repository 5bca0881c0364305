//! The devices that `--device` configures, and `carpel devices`, which lists them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};

/// A kind of device.
struct Kind {
    name: &'static str,
    about: &'static str,
    keys: &'static [Key],
    example: &'static str,
}

/// A key of a kind.
struct Key {
    name: &'static str,
    about: &'static str,
    default: &'static str,
}

const KINDS: &[Kind] = &[Kind {
    name: "irqchip",
    about: "The interrupt controllers",
    keys: &[Key {
        name: "mode",
        about: "of a PC, split (IOAPIC in carpel, no PIC or PIT) or full (all in KVM, with PIC and PIT); on aarch64, gicv2 or \
                gicv3, as by --gic",
        default: "split; gicv3 where the host has it",
    }],
    example: "--device irqchip,mode=full",
}];

/// Every kind with its keys, defaults and an example.
pub fn list() -> String {
    let mut text = String::new();
    for kind in KINDS {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}: {}", kind.name, kind.about);
        for key in kind.keys {
            let _ = writeln!(text, "  {}=...  {} [default: {}]", key.name, key.about, key.default);
        }
        let _ = writeln!(text, "  example: {}", kind.example);
    }
    text
}

/// The keys and values of `KIND[,key=value...]`. Kind and keys are known ones.
pub fn parse(device: &str) -> Result<Vec<(&'static str, &str)>> {
    let mut parts = device.split(',');
    let name = parts.next().unwrap_or_default();
    let kind = KINDS.iter().find(|kind| kind.name == name).with_context(|| {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        format!("There is no device `{name}`; there is {} (see `carpel devices`)", names.join(", "))
    })?;
    parts
        .map(|part| {
            let Some((name, value)) = part.split_once('=') else {
                bail!("Device `{device}`: `{part}` is not of the form key=value");
            };
            let key = kind.keys.iter().find(|key| key.name == name).with_context(|| {
                let names: Vec<_> = kind.keys.iter().map(|key| key.name).collect();
                format!("Device `{device}` has no key `{name}`; it has {}", names.join(", "))
            })?;
            Ok((key.name, value))
        })
        .collect()
}
