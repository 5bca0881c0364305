//! Configuration files: what `--dry-run --format json` prints, whole or its `config`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use carpel_vmm::config::Config;
use serde::Deserialize;
use serde::de::IgnoredAny;

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
