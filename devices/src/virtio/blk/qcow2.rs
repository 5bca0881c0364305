//! A qcow2 image. Only what the user calls one is taken for one: what a guest writes into a raw image is never looked at.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use imago::file::File as ImageFile;
use imago::format::builder::FormatDriverBuilder;
use imago::format::gate::ImplicitOpenGate;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, Storage as _, StorageOpenOptions};
use thiserror::Error;
use vm_memory::VolatileSlice;

use super::raw;
use super::storage::Storage;
use super::whole::{self, Incomplete};

/// Why a qcow2 image cannot be used.
#[derive(Debug, Error)]
pub enum Qcow2Error {
    /// It is none, or a broken one, or its backing file cannot be used.
    #[error("Cannot use {path} as qcow2")]
    Open {
        /// As the user named it.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// Some of it is missing.
    #[error("Cannot use {path} as qcow2 (`qemu-img check {path}` tells more)")]
    Incomplete {
        /// As the user named it.
        path: String,
        /// The cause.
        source: Incomplete,
    },
    /// What is in the backing file would have to be guessed, and a guest may have written it.
    #[error(
        "{path} does not say of which format its backing file {backing} is \
         (`qemu-img rebase -u -F raw|qcow2 -b {backing} {path}` does)"
    )]
    BackingFormat {
        /// As the user named it.
        path: String,
        /// As the image names it.
        backing: String,
    },
}

/// An open image.
pub struct Qcow2Image {
    /// What is discarded must not be in use meanwhile.
    image: RwLock<FormatAccess<ImageFile>>,
    /// Keep the locks.
    _files: Vec<File>,
}

impl Qcow2Image {
    /// Opens an image and its backing file, if it has one, and locks them as raw images are.
    pub fn open(path: &Path, read_only: bool, direct: bool) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut files = vec![raw::open(path, read_only)?];
        let error = |source| Qcow2Error::Open { path: path.display().to_string(), source };
        let options = StorageOpenOptions::new().direct(direct);
        let file = ImageFile::open(options.clone().filename(path).write(!read_only)).map_err(error)?;
        let mut image: Qcow2<ImageFile> = Qcow2::open_image(file, !read_only).map_err(error)?;
        whole::check(&files[0])
            .map_err(|error| Qcow2Error::Incomplete { path: path.display().to_string(), source: error })?;
        if let (Some(backing), None) = (image.implicit_backing_file(), image.implicit_backing_format()) {
            let (path, backing) = (path.display().to_string(), backing.clone());
            return Err(Qcow2Error::BackingFormat { path, backing }.into());
        }
        image.open_implicit_dependencies_gated(Gate { files: &mut files }).map_err(error)?;
        Ok(Self { image: RwLock::new(FormatAccess::new(image)), _files: files })
    }

    fn image(&self) -> RwLockReadGuard<'_, FormatAccess<ImageFile>> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn image_alone(&self) -> RwLockWriteGuard<'_, FormatAccess<ImageFile>> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for Qcow2Image {
    fn size(&self) -> u64 {
        self.image().size()
    }

    fn read(&self, into: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (vector, _guard) = IoVectorMut::from_volatile_slice(into);
        self.image().readv(vector, offset)
    }

    fn write(&self, from: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let (vector, _guard) = IoVector::from_volatile_slice(from);
        self.image().writev(vector, offset)
    }

    fn flush(&self) -> io::Result<()> {
        let image = self.image();
        image.flush()?;
        image.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.image_alone().discard_to_any(offset, length)
    }

    fn zero(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if unmap {
            self.image_alone().discard_to_zero(offset, length)
        } else {
            self.image().write_zeroes(offset, length)
        }
    }
}

/// Lets an image have one backing file, read-only, which has none itself.
struct Gate<'a> {
    files: &'a mut Vec<File>,
}

impl ImplicitOpenGate<ImageFile> for Gate<'_> {
    fn open_format<F: FormatDriverBuilder<ImageFile>>(&mut self, builder: F) -> io::Result<FormatAccess<ImageFile>> {
        Ok(FormatAccess::new(builder.open(DenyImplicitOpenGate::default())?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<ImageFile> {
        let path = options.get_filename().ok_or_else(|| io::Error::other("It has no name"))?;
        self.files.push(raw::open(path, true).map_err(io::Error::other)?);
        ImageFile::open(options.write(false))
    }
}
