//! Where a report goes, and what else of the run is there.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use carpel_devices::endpoint::Target;
use carpel_devices::virtio::config::VirtioConfig;
use carpel_vmm::config::Config;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat, major};

/// As many symbolic links as Linux follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// The major number of /dev/null, /dev/full and their like (Linux, Documentation/admin-guide/devices.txt).
const MEMORY_DEVICES: u64 = 1;
/// A place to write to.
#[derive(Debug)]
pub struct Place {
    /// As it was named.
    pub named: PathBuf,
    /// What is there.
    pub kind: Kind,
    identity: Option<Identity>,
}

/// What is at a place.
#[derive(Debug)]
pub enum Kind {
    /// The standard output that carpel was started with.
    Stdout,
    /// The standard error that carpel was started with.
    Stderr,
    /// A regular file, or nothing yet, at this path, which is no symbolic link.
    File(PathBuf),
    /// Anything else, which stays what it is: a pipe, a device, an open file of a process.
    Stream(PathBuf),
}

/// What two names of one place have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    /// The file system and the number of what is there.
    Node(u64, u64),
    /// The same of a directory, and the name of what is not in it yet.
    Entry(u64, u64, OsString),
}

impl Place {
    /// The place of this name; `-` is standard output.
    pub fn find(named: &Path) -> io::Result<Self> {
        if named == Path::new("-") { Self::stream(named, Kind::Stdout, io::stdout()) } else { Self::of_path(named) }
    }

    fn of_path(named: &Path) -> io::Result<Self> {
        let path = follow_links(named)?;
        match own_descriptor(&path) {
            Some(1) => return Self::stream(named, Kind::Stdout, io::stdout()),
            Some(2) => return Self::stream(named, Kind::Stderr, io::stderr()),
            _ => {}
        }
        let (kind, identity) = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => return Err(Errno::EISDIR.into()),
            Ok(metadata) if metadata.file_type().is_block_device() => {
                return Err(io::Error::new(ErrorKind::InvalidInput, "It is a block device"));
            }
            Ok(metadata) => {
                let replaced = metadata.is_file() && !is_descriptor(&path);
                (if replaced { Kind::File(path) } else { Kind::Stream(path) }, Identity::of(&metadata))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // What open(2) says of a name that only a directory may have.
                let name = path.file_name().filter(|_| !named.as_os_str().as_bytes().ends_with(b"/"));
                let (name, directory) = (name.ok_or(Errno::EISDIR)?.to_owned(), fs::metadata(parent(&path))?);
                let identity = Identity::Entry(directory.dev(), directory.ino(), name);
                (Kind::File(path), Some(identity))
            }
            Err(error) => return Err(error),
        };
        Ok(Self { named: named.to_owned(), kind, identity })
    }

    fn stream(named: &Path, kind: Kind, stream: impl AsFd) -> io::Result<Self> {
        Ok(Self { named: named.to_owned(), kind, identity: Identity::of_stream(stream)? })
    }

    /// Whether both are one place, where what goes to one would spoil what goes to the other.
    pub fn is_also(&self, other: &Self) -> bool {
        self.identity.is_some() && self.identity == other.identity
    }
}

impl Identity {
    /// None for devices that keep nothing.
    fn of(metadata: &Metadata) -> Option<Self> {
        let keeps = !metadata.file_type().is_char_device() || major(metadata.rdev()) != MEMORY_DEVICES;
        keeps.then(|| Self::Node(metadata.dev(), metadata.ino()))
    }

    fn of_stream(stream: impl AsFd) -> io::Result<Option<Self>> {
        let status = fstat(stream)?;
        let is_device = SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR;
        let keeps = !is_device || major(status.st_rdev) != MEMORY_DEVICES;
        Ok(keeps.then_some(Self::Node(status.st_dev, status.st_ino)))
    }
}

/// What of a run a report must not spoil.
#[derive(Debug, Default)]
pub struct Taken {
    /// What is read or written, and by which part of the run.
    files: Vec<(Identity, String)>,
    /// What must not be replaced, though it may be written to.
    streams: Vec<(Identity, &'static str)>,
}

impl Taken {
    /// The files that a run names, and its standard streams. Fails where a console would overwrite what is read.
    pub fn by(config: &Config) -> Result<Self> {
        let console = &config.run.console;
        let identity = |path: &Path| Place::of_path(path).ok()?.identity;
        let files = |device: &'_ VirtioConfig| {
            let named = |path: PathBuf| (path, format!("`{}`", device.text()));
            device.files().into_iter().map(named).collect::<Vec<_>>()
        };
        let mut outputs: Vec<_> = config.devices.iter().flat_map(files).collect();
        if let Target::File(path) | Target::Socket(path) = console {
            outputs.push((path.clone(), "the console".to_owned()));
        }
        if outputs.is_empty() && config.run.report.is_empty() {
            // Nothing is written to, so nothing is spoilt.
            return Ok(Self::default());
        }
        let inputs = (config.kernel.iter().map(|path| ("the kernel", path)))
            .chain(config.initrd.iter().map(|path| ("the initial RAM disk", path)))
            .chain(config.firmware.iter().map(|path| ("the firmware", path)));
        let mut taken = Self::default();
        for (name, path) in inputs {
            let identity = identity(path);
            taken.files.extend(identity.map(|identity| (identity, name.to_owned())));
        }
        let inputs = taken.files.len();
        for (path, name) in outputs {
            let Some(identity) = identity(&path) else { continue };
            if let Some((_, input)) = taken.files[..inputs].iter().find(|(input, _)| *input == identity) {
                bail!("Cannot give {} to {name}: It is in use by another part of the run: {input}", path.display());
            }
            taken.files.push((identity, name));
        }
        taken.add_streams(*console == Target::Stdio);
        Ok(taken)
    }

    fn add_streams(&mut self, by_console: bool) {
        let mut add = |stream: io::Result<Option<Identity>>, name| {
            self.streams.extend(stream.ok().flatten().map(|identity| (identity, name)));
        };
        add(Identity::of_stream(io::stdin()), "standard input");
        add(Identity::of_stream(io::stderr()), "standard error");
        add(Identity::of_stream(io::stdout()), "standard output");
        if by_console {
            let name = "the console (see --console)".to_owned();
            self.files.extend(Identity::of_stream(io::stdout()).ok().flatten().map(|identity| (identity, name)));
        }
    }

    /// Refuses a place that is taken.
    pub fn check(&self, place: &Place) -> io::Result<()> {
        let same = |identity: &Identity| place.identity.as_ref() == Some(identity);
        let file = self.files.iter().find(|(identity, _)| same(identity)).map(|(_, name)| name.as_str());
        let is_replaced = matches!(place.kind, Kind::File(_));
        let stream = self.streams.iter().find(|(identity, _)| is_replaced && same(identity)).map(|(_, name)| *name);
        match file.or(stream) {
            Some(name) => Err(in_use(&format!("part of the run: {name}"))),
            None => Ok(()),
        }
    }
}

/// Why a place cannot be had.
pub fn in_use(other: &str) -> io::Error {
    io::Error::new(ErrorKind::ResourceBusy, format!("It is in use by another {other}"))
}

/// The places of reports, each for itself.
pub fn find_all(paths: &[PathBuf], taken: &Taken) -> Result<Vec<Place>> {
    let mut places = Vec::<Place>::new();
    for path in paths {
        let find = || {
            let place = Place::find(path)?;
            taken.check(&place)?;
            match places.iter().find(|other| other.is_also(&place)) {
                Some(other) => Err(in_use(&format!("report: {}", other.named.display()))),
                None => Ok(place),
            }
        };
        let place = find().with_context(|| format!("Cannot write the report to {}", path.display()))?;
        places.push(place);
    }
    Ok(places)
}

/// The directory of a path.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where symbolic links lead, which need not be there. Links to open files are left: they lead to no name.
fn follow_links(named: &Path) -> io::Result<PathBuf> {
    let mut path = named.to_owned();
    for _ in 0..=MAX_LINKS {
        match fs::read_link(&path) {
            Ok(_) if is_descriptor(&path) => return Ok(path),
            Ok(target) => path = parent(&path).join(target),
            // It is no link, or is not there.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ELOOP.into())
}

/// Whether it is a process' open file (proc_pid_fd(5)).
fn is_descriptor(path: &Path) -> bool {
    let directory = fs::canonicalize(parent(path));
    directory.is_ok_and(|directory| directory.starts_with("/proc") && directory.ends_with("fd"))
}

/// The number of an open file of carpel's own.
fn own_descriptor(path: &Path) -> Option<u32> {
    let own = fs::canonicalize("/proc/self").ok()?;
    let is_own = is_descriptor(path) && fs::canonicalize(parent(path)).ok()?.starts_with(own);
    path.file_name().and_then(OsStr::to_str)?.parse().ok().filter(|_| is_own)
}
