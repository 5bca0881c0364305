//! What took long to get, kept outside the working tree so that a clean clone finds it again.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The cache directory: `$CARPEL_CACHE`, else `carpel` below `$XDG_CACHE_HOME`, else below `~/.cache`.
pub fn directory() -> Result<PathBuf> {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("CARPEL_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|dir| dir.join("carpel")))
        .or_else(|| named("HOME").map(|dir| dir.join(".cache/carpel")))
        .context("No place for the cache: none of CARPEL_CACHE, XDG_CACHE_HOME and HOME is set")
}

/// The cached directory `name`; where it is missing, `fill` makes its contents.
///
/// It appears under its name only when `fill` has succeeded: an interrupted run leaves nothing half. A second process that
/// wants the same directory waits for the first.
pub fn once(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    once_below(&directory()?, name, fill)
}

fn once_below(root: &Path, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let ready = root.join(name);
    if ready.exists() {
        return Ok(ready);
    }
    fs::create_dir_all(root).with_context(|| format!("Creating the cache {}", root.display()))?;
    let lock = root.join(format!("{name}.lock"));
    let lock = File::create(&lock).with_context(|| format!("Creating {}", lock.display()))?;
    lock.lock().with_context(|| format!("Locking {name} in the cache"))?;
    if ready.exists() {
        return Ok(ready);
    }
    let part = root.join(format!("{name}.part"));
    if part.exists() {
        fs::remove_dir_all(&part)
            .with_context(|| format!("Removing what an interrupted run left in {}", part.display()))?;
    }
    fs::create_dir(&part).with_context(|| format!("Creating {}", part.display()))?;
    if let Err(err) = fill(&part) {
        // The first error tells more than one of tidying up; the next run removes what stays.
        let _ = fs::remove_dir_all(&part);
        return Err(err);
    }
    fs::rename(&part, &ready).with_context(|| format!("Moving {} into place", ready.display()))?;
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_failed_or_interrupted_fill_leaves_nothing_and_a_finished_one_is_not_repeated() {
        let root = tempfile::tempdir().unwrap();
        let failed = once_below(root.path(), "thing", |part| {
            fs::write(part.join("half"), "h")?;
            bail!("No more bytes")
        });
        assert!(failed.is_err());
        assert!(!root.path().join("thing").exists());

        fs::create_dir(root.path().join("thing.part")).unwrap();
        fs::write(root.path().join("thing.part/stale"), "s").unwrap();
        let fill = |part: &Path| Ok(fs::write(part.join("whole"), "w")?);
        let ready = once_below(root.path(), "thing", fill).unwrap();
        assert!(ready.join("whole").exists() && !ready.join("stale").exists());

        let again = once_below(root.path(), "thing", |_| bail!("Filled twice")).unwrap();
        assert_eq!(again, ready);
    }
}
