//! Files that must not outlive the process, however it ends: sockets, and what is not worth keeping unless it is finished.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

/// How often, and how long, [`remove_all`] waits for who makes a file.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(2);

/// All that there are now. The process is the right place, for it is the process that ends.
static ALL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file that is removed when this is dropped, and by [`remove_all`].
#[derive(Debug)]
pub struct Leftover(PathBuf);

impl Leftover {
    /// Makes a file of this name, which goes with the process from the first moment. A relative name is one of the current directory,
    /// which does not change.
    pub fn create<T, E>(path: &Path, make: impl FnOnce() -> Result<T, E>) -> Result<(T, Self), E> {
        // Held meanwhile, so that no file comes to be unknown to [`remove_all`].
        let mut all = all();
        let file = make()?;
        all.push(path.to_owned());
        Ok((file, Self(path.to_owned())))
    }

    /// The file is to stay.
    pub fn keep(self) {
        forget(&self.0);
        std::mem::forget(self);
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        // Somebody may have removed it before.
        let _ = fs::remove_file(&self.0);
        forget(&self.0);
    }
}

/// Removes them all, and lets no thread make another: for an end that drops nothing.
pub fn remove_all() {
    // Others hold it only while a file is made or removed. Who ends the process may be one of them, or they wait for the host.
    for _ in 0..TRIES {
        match ALL.try_lock() {
            Ok(mut all) => {
                all.drain(..).for_each(|path| drop(fs::remove_file(path)));
                return std::mem::forget(all);
            }
            Err(_) => sleep(BETWEEN_TRIES),
        }
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
