//! How a report is written: a regular file as a whole or not at all, anything else as it is.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use carpel_devices::endpoint;
use carpel_devices::leftover::Leftover;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::{Builder, NamedTempFile};

use super::place::{Kind, parent};

/// How a temporary file's name starts: hidden from those who look for reports by their ending.
const TEMPORARY: &str = ".carpel-";
/// What everybody may do who the umask does not exclude.
const NEW_FILE: u32 = 0o666;
/// What of a file's mode is kept.
const PERMISSIONS: u32 = 0o777;
/// How much of a file is looked at to tell a report from an image, in bytes.
const BEGINNING: u64 = 4096;

/// A place that is ready to be written to.
#[derive(Debug)]
pub enum Destination {
    /// A file that is written beside its path and renamed when it is whole.
    Beside {
        /// Where it goes.
        path: PathBuf,
        /// What was there before.
        old: Option<Metadata>,
        /// The same file where it is still there. It is locked.
        kept: Option<File>,
    },
    /// Something that is written as it is.
    Stream(File),
}

impl Destination {
    /// Makes sure that the report can be written, then removes that of an earlier run.
    pub fn open(kind: Kind) -> io::Result<Self> {
        match kind {
            Kind::Stdout => Ok(Self::Stream(io::stdout().as_fd().try_clone_to_owned()?.into())),
            Kind::Stderr => Ok(Self::Stream(io::stderr().as_fd().try_clone_to_owned()?.into())),
            // Appending: what an open file has been given by others stays.
            Kind::Stream(path) => Ok(Self::Stream(File::options().append(true).open(path)?)),
            Kind::File(path) => Self::beside(path),
        }
    }

    fn beside(path: PathBuf) -> io::Result<Self> {
        let old = match File::options().write(true).open(&path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        old.as_ref().map_or(Ok(()), endpoint::claim)?;
        // It has no name, so nothing is left of it.
        tempfile::tempfile_in(parent(&path))?;
        let metadata = old.as_ref().map(File::metadata).transpose()?;
        let is_text = old.is_some() && is_text(&path)?;
        if is_text {
            fs::remove_file(&path)?;
        }
        Ok(Self::Beside { path, old: metadata, kept: old.filter(|_| !is_text) })
    }

    /// Writes the whole report.
    pub fn write(self, text: &str) -> io::Result<()> {
        match self {
            Self::Stream(file) => write_stream(&file, text.as_bytes()),
            Self::Beside { path, old, kept } => {
                let (mut file, leftover) = new_file(&path)?;
                file.write_all(text.as_bytes())?;
                if let Some(old) = old {
                    keep_permissions(file.as_file(), &old);
                }
                sync(file.as_file())?;
                file.persist(&path).map_err(|error| error.error)?;
                if let Some(leftover) = leftover {
                    leftover.keep();
                }
                drop(kept);
                Ok(())
            }
        }
    }
}

/// A file beside the path that goes with the process, however that ends, unless it is kept.
fn new_file(path: &Path) -> io::Result<(NamedTempFile<File>, Option<Leftover>)> {
    let mut leftover = None;
    let file = Builder::new().prefix(TEMPORARY).make_in(parent(path), |path| {
        let mut options = File::options();
        let make = || options.write(true).create_new(true).mode(NEW_FILE).open(path);
        let (file, left) = Leftover::create(path, make)?;
        leftover = Some(left);
        Ok(file)
    })?;
    Ok((file, leftover))
}

/// Whether it can be a report: an image that nobody named, such as one that a disk is based on, stays until it is known
/// that no device has locked it.
fn is_text(path: &Path) -> io::Result<bool> {
    let mut beginning = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(BEGINNING).read_to_end(&mut beginning)?,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(!beginning.contains(&0))
}

/// Gives a file another's owner, group and mode, as far as its owner may.
fn keep_permissions(file: &File, old: &Metadata) {
    let same = file.metadata().is_ok_and(|new| (new.uid(), new.gid()) == (old.uid(), old.gid()));
    // Somebody else's file becomes the user's, for whom the umask is right.
    if same || fchown(file, Some(old.uid()), Some(old.gid())).is_ok() {
        let _ = file.set_permissions(Permissions::from_mode(old.mode() & PERMISSIONS));
    }
}

/// Waits until the file is on the disk: some file systems tell only now that it does not fit.
fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error) if !matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Err(error),
        _ => Ok(()),
    }
}

/// Writes to what others may have made non-blocking. A reader that has seen enough is no error.
fn write_stream(mut file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::BrokenPipe => return Ok(()),
                ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
                }
                _ => return Err(error),
            },
        }
    }
    Ok(())
}
