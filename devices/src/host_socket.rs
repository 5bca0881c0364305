//! The host's end of sockets and consoles: a unix socket where the host's programs come, and those beside it where a guest's
//! connections go.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use thiserror::Error;

use crate::leftover::Leftover;

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
        Ok(Self { listener: listener.into(), path, _file: file })
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
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        connect_to(Path::new(&path))
    }
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
