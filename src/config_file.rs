//! Configuration files: what `--dry-run --format json` prints, whole or its `config`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use carpel_vmm::config::Config;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

/// The largest file in bytes.
const SIZE_MAX: u64 = 1 << 20;

/// What a dry run prints; of the plan, nothing is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    config: Config,
    #[serde(rename = "plan")]
    _plan: IgnoredAny,
}

/// Reads a configuration.
pub fn read(path: &Path) -> Result<Config> {
    let context = || format!("Cannot read the configuration {}", path.display());
    let mut text = Vec::new();
    File::open(path).and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut text)).with_context(context)?;
    if text.len() as u64 > SIZE_MAX {
        return Err(anyhow::anyhow!("It is larger than {SIZE_MAX} bytes")).with_context(context);
    }
    parse(&text).with_context(context)
}

fn parse(text: &[u8]) -> Result<Config> {
    let config = read_config(text)?;
    let text = str::from_utf8(text)?;
    let raw: &RawValue = serde_json::from_str(text)?;
    let is_whole = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(text)
        .ok()
        .and_then(|keys| keys.get("config").copied());
    check_objects(text, is_whole.unwrap_or(raw), &serde_json::to_value(&config)?, "")?;
    Ok(config)
}

/// Serde takes a list for an object, in the order of its fields. A file that means that means nothing.
fn check_objects(text: &str, raw: &RawValue, read: &Value, path: &str) -> Result<()> {
    match read {
        Value::Object(object) => {
            let Ok(fields) = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(raw.get()) else {
                let offset = raw.get().as_ptr() as usize - text.as_ptr() as usize;
                let line = text[..offset].matches('\n').count() + 1;
                bail!("`{path}`: invalid type: a list, expected an object at line {line}");
            };
            let known = fields.iter().filter_map(|(key, raw)| Some((key, raw, object.get(&**key)?)));
            known
                .map(|(key, raw, read)| (format!("{path}{}{key}", if path.is_empty() { "" } else { "." }), raw, read))
                .try_for_each(|(path, raw, read)| check_objects(text, raw, read, &path))
        }
        Value::Array(values) => {
            let elements: Vec<&RawValue> = serde_json::from_str(raw.get())?;
            let mut pairs = elements.into_iter().zip(values).enumerate();
            pairs.try_for_each(|(index, (raw, read))| check_objects(text, raw, read, &format!("{path}[{index}]")))
        }
        _ => Ok(()),
    }
}

fn read_config(text: &[u8]) -> Result<Config> {
    // Which of the two it is decides what an error is about.
    #[derive(Deserialize)]
    struct Keys {
        config: Option<IgnoredAny>,
    }
    let is_whole = serde_json::from_slice::<Keys>(text).is_ok_and(|keys| keys.config.is_some());
    if is_whole { Ok(located::<Whole>(text)?.config) } else { located(text) }
}

/// Reads JSON; an error names the key, as far as it is known, and the line.
fn located<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize(&mut reader) {
        Ok(value) => {
            reader.end()?;
            Ok(value)
        }
        Err(error) if error.path().iter().next().is_none() => bail!("{}", error.into_inner()),
        Err(error) => {
            let key = error.path().to_string();
            bail!("`{key}`: {}", error.into_inner())
        }
    }
}
