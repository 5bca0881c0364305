//! The host's end of a console: where output goes and where input comes from.
//!
//! Output and input are used by different threads. Nothing here waits, but [`Output::write`] and [`Output::wait`].

mod file;
mod foreground;
mod pty;
mod socket;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::diagnostics;
pub use crate::host_socket::SocketError;
pub use file::claim;
use file::{FileOutput, Stdin};
pub use foreground::in_foreground;
use pty::Pty;
use socket::{Socket, SocketInput};

/// What a console is connected to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Nothing: output is lost.
    Null,
    /// Standard input and output.
    #[default]
    Stdio,
    /// A file, made empty first; there is no input.
    File(PathBuf),
    /// A unix socket that is listened on, for one client at a time. While there is none, output is lost.
    Socket(PathBuf),
    /// A new pseudo-terminal, whose name is told on stderr. While nobody has it open, output is lost.
    Pty,
}

/// Both directions.
#[derive(Debug)]
pub struct Endpoint {
    /// Where output goes.
    pub output: Output,
    /// Where input comes from, if there is any.
    pub input: Option<Input>,
}

/// Where output goes. Clones go to the same place.
#[derive(Clone, Debug)]
pub struct Output(Arc<Sink>);

#[derive(Debug)]
enum Sink {
    Null,
    File(FileOutput),
    Socket(Arc<Socket>),
    Pty(Arc<Pty>),
}

/// Where input comes from.
#[derive(Debug)]
pub struct Input(Source);

#[derive(Debug)]
enum Source {
    Stdin(Stdin),
    Socket(SocketInput),
    Pty(Arc<Pty>),
}

/// Why there is no such end.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Standard output cannot be had.
    #[error("Cannot use standard output")]
    Stdout(#[source] io::Error),
    /// The file cannot be made.
    #[error("Cannot create {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The host gives no terminal.
    #[error("Cannot create a pseudo-terminal")]
    Pty(#[source] io::Error),
}

impl Target {
    /// Makes it. A terminal's name is told to the user as that of `what`.
    pub fn open(&self, what: &str) -> Result<Endpoint, OpenError> {
        let (sink, source) = match self {
            Self::Null => (Sink::Null, None),
            Self::Stdio => {
                // The descriptor itself: the standard library's handle would hold back what has no line end yet.
                let output = io::stdout().as_fd().try_clone_to_owned().map_err(OpenError::Stdout)?;
                (Sink::File(FileOutput::new(output.into())), Some(Source::Stdin(Stdin::new())))
            }
            Self::File(path) => {
                let error = |source| OpenError::File { path: path.clone(), source };
                let file = File::options().write(true).create(true).truncate(false).open(path).map_err(error)?;
                // Only now is it known that it is no disk's image.
                file::claim(&file).and_then(|()| file::empty(&file)).map_err(error)?;
                (Sink::File(FileOutput::new(file)), None)
            }
            Self::Socket(path) => {
                let socket = Arc::new(Socket::bind(path)?);
                (Sink::Socket(Arc::clone(&socket)), Some(Source::Socket(SocketInput::new(socket))))
            }
            Self::Pty => {
                let pty = Arc::new(Pty::open().map_err(OpenError::Pty)?);
                // Not through the logger: this was asked for.
                diagnostics::print(&format!("carpel: {what} is the terminal {}\n", pty.name().display()));
                (Sink::Pty(Arc::clone(&pty)), Some(Source::Pty(pty)))
            }
        };
        Ok(Endpoint { output: Output(Arc::new(sink)), input: source.map(Input) })
    }
}

impl Output {
    /// Writes some of the bytes, and may wait as `write(2)` does.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Sink::File(file) => file.write(bytes),
            _ => self.try_write(bytes),
        }
    }

    /// Writes some of the bytes without waiting; fails as `WouldBlock` where it would have to.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Sink::Null => Ok(bytes.len()),
            Sink::File(file) => file.try_write(bytes),
            Sink::Socket(socket) => socket.try_write(bytes),
            Sink::Pty(pty) => pty.try_write(bytes),
        }
    }

    /// Waits for room, at most so many milliseconds. A signal ends the wait.
    pub fn wait(&self, milliseconds: u16) {
        match &*self.0 {
            Sink::Null => {}
            Sink::File(file) => wait_writable(file.as_fd(), milliseconds),
            Sink::Socket(socket) => {
                if let Some(client) = socket.client() {
                    wait_writable(client.as_fd(), milliseconds);
                }
            }
            Sink::Pty(pty) => wait_writable(pty.as_fd(), milliseconds),
        }
    }
}

impl Input {
    /// How many numbers of event data it uses.
    pub const DATA: u32 = 2;

    /// Whether it is standard input.
    pub fn is_stdin(&self) -> bool {
        matches!(self.0, Source::Stdin(_))
    }

    /// Adds its event sources, whose data are `data` and those behind it. What they tell of is told once, so input is to be
    /// read until there is none.
    pub fn register(&self, data: u32, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        match &self.0 {
            Source::Stdin(_) => {
                match ops.add(Events::with_data(&io::stdin(), data, EventSet::IN | EventSet::EDGE_TRIGGERED)) {
                    // A regular file cannot be waited for, and need not be; a descriptor that is closed gives nothing.
                    Err(event_manager::Error::Epoll(error)) if matches!(error.errno(), libc::EPERM | libc::EBADF) => {
                        Ok(())
                    }
                    result => result,
                }
            }
            Source::Socket(socket) => socket.register(data, ops),
            Source::Pty(pty) => ops.add(Events::with_data(&pty.as_fd(), data, EventSet::IN | EventSet::EDGE_TRIGGERED)),
        }
    }

    /// Takes note of an event, of the source with this number from `data` on.
    pub fn event(&mut self, data: u32, number: u32, events: Events, ops: &mut EventOps) {
        if let Source::Socket(socket) = &mut self.0 {
            socket.event(data, number, events, ops);
        }
    }

    /// Reads what is there; 0 if there is nothing now.
    pub fn read(&mut self, bytes: &mut [u8]) -> usize {
        match &mut self.0 {
            Source::Stdin(stdin) => stdin.read(bytes),
            Source::Socket(socket) => socket.read(bytes),
            Source::Pty(pty) => pty.read(bytes),
        }
    }

    /// Whether there is somebody at the other end, as far as that can be told.
    pub fn is_connected(&self) -> bool {
        match &self.0 {
            Source::Stdin(_) | Source::Pty(_) => true,
            Source::Socket(socket) => socket.is_connected(),
        }
    }
}

/// What can be done with the file at once.
fn readiness(fd: BorrowedFd, wanted: PollFlags) -> PollFlags {
    let mut polled = [PollFd::new(fd, wanted)];
    match poll(&mut polled, PollTimeout::ZERO) {
        Ok(1..) => polled[0].revents().unwrap_or(PollFlags::empty()),
        _ => PollFlags::empty(),
    }
}

fn wait_writable(fd: BorrowedFd, milliseconds: u16) {
    let _ = poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::from(milliseconds));
}

#[cfg(test)]
mod tests;
