//! A unix socket that is listened on, as a file: a stale one is replaced, a live one is not, and ours goes when we go.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Listens, without waiting, until dropped.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

/// Why a path cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody else does.
    #[error("Another process listens there; end it, or choose another path")]
    InUse,
    /// Something else has the name.
    #[error("There is a file of this name that is no socket")]
    NoSocket,
    /// Anything else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Listener {
    pub(super) fn bind(path: &Path) -> Result<Self, BindError> {
        let socket = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path)?;
                UnixListener::bind(path)?
            }
            result => result?,
        };
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_owned(), inode: inode(path) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            // What cannot be removed is replaced next time.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(BindError::NoSocket);
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
        Err(error) => Err(error.into()),
        Ok(_) => Err(BindError::InUse),
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}
