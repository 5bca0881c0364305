//! Files that must not outlive the process, however it ends: sockets, and what is not worth keeping unless it is finished.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All that there are now. The process is the right place, for it is the process that ends.
static ALL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file that is removed when this is dropped, and by [`remove_all`].
#[derive(Debug)]
pub struct Leftover(PathBuf);

impl Leftover {
    /// From now on the file of this name goes with the process. A relative name is one of the current directory, which does not change.
    pub fn new(path: &Path) -> Self {
        all().push(path.to_owned());
        Self(path.to_owned())
    }

    /// The file is to stay.
    pub fn keep(self) {
        forget(&self.0);
        std::mem::forget(self);
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        forget(&self.0);
        // Somebody may have removed it before.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes them all: for an end that drops nothing.
pub fn remove_all() {
    // Held only while the list changes, unless the thread that holds it is what ends the process.
    if let Ok(mut all) = ALL.try_lock() {
        all.drain(..).for_each(|path| drop(fs::remove_file(path)));
    }
}

fn forget(path: &Path) {
    let mut all = all();
    if let Some(index) = all.iter().position(|other| other == path) {
        all.swap_remove(index);
    }
}

fn all() -> MutexGuard<'static, Vec<PathBuf>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}
