//! The host's end of sockets and consoles: a unix socket where the host's programs come, and those beside it where a guest's
//! connections go.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use thiserror::Error;

use crate::leftover::Leftover;

/// The longest path of a socket in bytes: `sun_path` has 108, with a zero at the end (unix(7)).
const PATH_MAX: usize = 107;
/// What the sockets of ports have behind the name, at its longest.
const LAST_PORT: &str = "_4294967295";

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("The socket {path} is in use by another guest or process")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// It is there and is no socket.
    #[error("{path} is there already and is no socket")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The sockets of ports have names that no program could connect to.
    #[error(
        "The sockets for the guest's connections, up to {path}{LAST_PORT}, have names that are too long for sockets (at most \
        {PATH_MAX} bytes): choose a shorter name, or directory"
    )]
    Ports {
        /// The path that they are derived of.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("Cannot make the socket {path}")]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A listening socket. Its file is gone when this is dropped.
#[derive(Debug)]
pub struct HostSocket {
    listener: UnixListener,
    path: PathBuf,
    _file: Leftover,
    /// The same socket, by a path that is short enough for those of ports as well, ...
    short_path: Option<PathBuf>,
    /// ... which goes by this directory's descriptor.
    directory: Option<File>,
}

impl HostSocket {
    /// Listens at the path. A socket that a process left there when it ended is replaced.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let path = path.to_owned();
        let error = |source| SocketError::Io { path: path.clone(), source };
        match path.symlink_metadata() {
            Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NoSocket { path }),
            // Only nobody's socket refuses; a busy one has no room at most.
            Ok(_) => match connect_to(&path) {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(&path).map_err(error)?;
                }
                _ => return Err(SocketError::InUse { path }),
            },
            Err(_) => {}
        }
        let address = UnixAddr::new(&path).map_err(|errno| error(errno.into()))?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let listener =
            socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(|errno| error(errno.into()))?;
        // There is a file from then on, which goes if nobody can listen.
        let bound = Leftover::create(&path, || bind(listener.as_raw_fd(), &address));
        let ((), file) = bound.map_err(|errno| error(errno.into()))?;
        listen(&listener, Backlog::MAXALLOWABLE).map_err(|errno| error(errno.into()))?;
        Ok(Self { listener: listener.into(), path, _file: file, short_path: None, directory: None })
    }

    /// Makes sure that the sockets of all ports can be reached: by their directory's descriptor, where their paths are too long.
    pub fn with_ports(mut self) -> Result<Self, SocketError> {
        if fits(&self.path) {
            return Ok(self);
        }
        let too_long = || SocketError::Ports { path: self.path.clone() };
        let name = self.path.file_name().ok_or_else(too_long)?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let directory = File::options().read(true).custom_flags(flags.bits()).open(parent.unwrap_or(Path::new(".")));
        let directory = directory.map_err(|source| SocketError::Io { path: self.path.clone(), source })?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        // The socket itself is there: if it is not seen, there is no /proc.
        if !fits(&short) || short.symlink_metadata().is_err() {
            return Err(too_long());
        }
        (self.short_path, self.directory) = (Some(short), Some(directory));
        Ok(self)
    }

    /// The file descriptor to wait at.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The next connection of the host's.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Connects to who listens for this port of the host, without waiting.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = OsString::from(self.short_path.as_ref().unwrap_or(&self.path));
        path.push(format!("_{port}"));
        connect_to(Path::new(&path))
    }
}

/// Whether the paths of the sockets of all ports are short enough.
fn fits(path: &Path) -> bool {
    path.as_os_str().len() + LAST_PORT.len() <= PATH_MAX
}

fn connect_to(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_made_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock");
        let socket = HostSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok() && socket.accept().is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = HostSocket::bind(&path).unwrap();
        let error = HostSocket::bind(&path).unwrap_err().to_string();
        assert_eq!(error, format!("The socket {} is in use by another guest or process", path.display()));
        assert!(UnixStream::connect(&path).is_ok(), "{socket:?} still listens");
    }

    /// A directory of the test's with a path of so many bytes.
    fn directory_of(scratch: &Path, length: usize) -> PathBuf {
        let mut path = scratch.to_owned();
        while path.as_os_str().len() + 2 <= length {
            let left = length - path.as_os_str().len() - 1;
            // Never one byte less than what is left: a name has one at least.
            path.push("d".repeat(if left > 60 { 40 } else { left }));
        }
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn ports_are_reached_however_long_their_paths_are() {
        let scratch = tempfile::tempdir().unwrap();
        // The path itself has room in each case, and those of few or no ports.
        for length in [80, 94, 95, 100, 104] {
            let directory = directory_of(scratch.path(), length);
            assert_eq!(directory.as_os_str().len(), length);
            let socket = HostSocket::bind(&directory.join("vm")).unwrap().with_ports().unwrap();
            for port in [1, 52, u32::MAX] {
                // Bound by another way, as programs of the host must: they change to the directory.
                let open = File::open(&directory).unwrap();
                let by = format!("/proc/self/fd/{}/vm_{port}", open.as_raw_fd());
                let listener = UnixListener::bind(by).unwrap();
                socket.connect(port).unwrap_or_else(|error| panic!("{length} {port}: {error}"));
                listener.accept().unwrap();
            }
            assert!(socket.connect(2).is_err());
        }
    }

    #[test]
    fn ports_that_cannot_be_reached_are_refused_at_once() {
        let scratch = tempfile::tempdir().unwrap();
        let length = PATH_MAX - scratch.path().as_os_str().len() - 1;
        let path = scratch.path().join("n".repeat(length));
        let error = HostSocket::bind(&path).unwrap().with_ports().unwrap_err().to_string();
        assert!(
            error.contains(&format!("up to {}_4294967295, have names that are too long", path.display())),
            "{error}"
        );
        assert!(!path.exists(), "nothing is left behind");
    }

    #[test]
    fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        let error = HostSocket::bind(&path).unwrap_err().to_string();
        assert_eq!(error, format!("{} is there already and is no socket", path.display()));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let missing = directory.path().join("missing/vsock");
        let error = HostSocket::bind(&missing).unwrap_err().to_string();
        assert_eq!(error, format!("Cannot make the socket {}", missing.display()));
    }
}
