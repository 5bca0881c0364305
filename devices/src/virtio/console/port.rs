//! A port: its queues' traffic with the host.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use event_manager::{EventOps, Events};
use serde::{Deserialize, Serialize};

use super::control::{self, Note};
use super::handle::ConsoleHandle;
use crate::console::{ConsoleOutput, Consoles};
use crate::endpoint::{Endpoint, Input, OpenError, Target};
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Fault, VirtQueue};

/// What is moved at once, in bytes; also what is held of input at most.
const PIECE: usize = 4096;
/// At most so many bytes are sent in one pass, so that others have their turn.
const PASS_MAX: usize = 64 << 10;
/// The longest name in bytes: a file name in the guest.
const NAME_MAX: usize = 64;

/// How sending went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// What there was.
    All,
    /// Not all: the other end is full. Whether it took anything.
    Full { moved: bool },
}

/// A port of the device.
pub(super) struct Port {
    name: Option<String>,
    pub(super) link: Link,
    /// The driver opened it.
    pub(super) open: bool,
    /// The driver has set it up.
    ready: bool,
    notes: Vec<Note>,
    sending: Option<(Chain, u64)>,
    received: Vec<u8>,
}

/// The other end.
pub(super) enum Link {
    /// The monitor's console, which may be connected to nothing yet.
    Console { handle: ConsoleHandle, output: Option<Box<dyn ConsoleOutput>> },
    /// An end of its own.
    Endpoint {
        endpoint: Endpoint,
        /// Whether output was lost, and the user told.
        failed: bool,
        /// Whether people read what comes out of it: a console, too. A socket is there for programs, whose bytes are nobody's lines.
        is_console: bool,
        /// Where it prints to as a console, once the monitor has connected it.
        console: Option<Box<dyn ConsoleOutput>>,
    },
}

/// A port beside the console; it is connected to one of a file, a socket and a pseudo-terminal.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortConfig {
    /// Its name in the guest.
    #[serde(default)]
    pub name: String,
    /// The file that gets what the port sends.
    pub file: Option<PathBuf>,
    /// The unix socket that it is connected to.
    pub socket: Option<PathBuf>,
    /// Whether it is connected to a new pseudo-terminal.
    #[serde(default)]
    pub pty: bool,
}

impl PortConfig {
    /// What it is connected to, if that can be.
    pub(super) fn check(&self) -> Result<Target, Box<dyn Error + Send + Sync>> {
        let name = self.name.as_str();
        if name.is_empty() {
            return Err("A port needs a name, and what it is connected to".into());
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.len() > NAME_MAX || !name.bytes().all(fits) || name.starts_with('.') {
            let rule = format!("at most {NAME_MAX} letters, digits and `._-`, and no `.` in front");
            return Err(format!("A port's name has {rule}, not `{name}`").into());
        }
        let file = self.file.clone().map(Target::File);
        let targets = [file, self.socket.clone().map(Target::Socket), self.pty.then_some(Target::Pty)];
        let mut targets = targets.into_iter().flatten();
        match (targets.next(), targets.next()) {
            (Some(target), None) => Ok(target),
            _ => Err(format!("The port `{name}` needs one of file, socket and pty").into()),
        }
    }
}

impl Port {
    pub(super) fn console(handle: ConsoleHandle) -> Self {
        Self::new(None, Link::Console { handle, output: None })
    }

    /// A port of this name that is connected to something of its own.
    pub(super) fn open(name: &str, target: &Target) -> Result<Self, OpenError> {
        let endpoint = target.open(&format!("Port `{name}`"))?;
        let is_console = !matches!(target, Target::Socket(_));
        let link = Link::Endpoint { endpoint, failed: false, is_console, console: None };
        Ok(Self::new(Some(name.to_owned()), link))
    }

    /// Connects the port to its other end, if it is a console.
    pub(super) fn connect(&mut self, consoles: &dyn Consoles) {
        match &mut self.link {
            Link::Console { output, .. } => *output = Some(consoles.console()),
            Link::Endpoint { endpoint, is_console: true, console, .. } => {
                let name = self.name.as_deref().unwrap_or_default();
                *console = Some(consoles.further(name, endpoint.output.clone()));
            }
            Link::Endpoint { .. } => {}
        }
    }

    fn new(name: Option<String>, link: Link) -> Self {
        Self { name, link, open: false, ready: false, notes: Vec::new(), sending: None, received: Vec::new() }
    }

    /// The driver starts anew.
    pub(super) fn start(&mut self, open: bool) {
        self.open = open;
        self.ready = false;
        self.notes.clear();
    }

    /// The driver is to be told something: once, however often this is called.
    pub(super) fn note(&mut self, note: Note) {
        let told = match note {
            Note::Console => matches!(self.link, Link::Console { .. }),
            Note::Resize => matches!(&self.link, Link::Console { handle, .. } if handle.size().is_some()),
            Note::Name => self.name.is_some(),
            Note::Add | Note::Open => true,
        };
        if told && (self.ready || note == Note::Add) && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The driver has set the port up, or could not.
    pub(super) fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
        if ready {
            Note::ALL[1..].iter().for_each(|&note| self.note(note));
        }
    }

    pub(super) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// The next message to the driver about this port, which is port number `port`.
    pub(super) fn take_message(&mut self, port: usize) -> Option<Vec<u8>> {
        let note = Note::ALL.into_iter().find(|note| self.notes.contains(note))?;
        self.notes.retain(|&other| other != note);
        Some(match (note, &self.link) {
            (Note::Console, _) => control::console(port),
            (Note::Resize, Link::Console { handle, .. }) => control::resize(port, handle.size().unwrap_or_default()),
            (Note::Name, _) => control::name(port, self.name.as_deref().unwrap_or_default()),
            (Note::Open, _) => control::open(port, self.link.is_connected()),
            (Note::Add | Note::Resize, _) => control::add(port),
        })
    }

    /// Whether something waits until the other end has room.
    pub(super) fn is_full(&self) -> bool {
        self.sending.is_some()
    }

    /// Takes what the driver made available to the other end.
    pub(super) fn send(&mut self, queue: &mut VirtQueue) -> Result<Sent, Fault> {
        let mut passed = 0;
        loop {
            let (chain, mut offset) = match self.sending.take() {
                Some(sending) => sending,
                None => match queue.pop()? {
                    Some(chain) => (chain, 0),
                    None => return Ok(Sent::All),
                },
            };
            loop {
                let mut piece = [0; PIECE];
                let length = chain.readable().read(offset, &mut piece)?;
                if length == 0 {
                    queue.complete(chain, 0)?;
                    break;
                }
                let taken = self.link.offer(&piece[..length]);
                offset += taken as u64;
                passed += taken;
                if taken < length {
                    self.sending = Some((chain, offset));
                    return Ok(Sent::Full { moved: passed > 0 });
                }
                if passed >= PASS_MAX {
                    self.sending = Some((chain, offset));
                    queue.come_back();
                    return Ok(Sent::All);
                }
            }
        }
    }

    /// Gives the driver what came from the other end.
    pub(super) fn receive(&mut self, queue: &mut VirtQueue) -> Result<(), Fault> {
        while self.open {
            if self.received.is_empty() {
                let mut piece = [0; PIECE];
                let count = self.link.take(&mut piece);
                self.received.extend_from_slice(&piece[..count]);
            }
            if self.received.is_empty() {
                break;
            }
            let Some(chain) = queue.pop()? else { break };
            let written = chain.writable().write(0, &self.received)?;
            queue.complete(chain, written as u32)?;
            self.received.drain(..written);
        }
        Ok(())
    }

    /// One of the other end's event sources is ready; `data` is that of its first one.
    pub(super) fn event(&mut self, data: u32, source: u32, events: Events, ops: &mut EventOps) {
        let connected = self.link.is_connected();
        if let Link::Endpoint { endpoint: Endpoint { input: Some(input), .. }, .. } = &mut self.link {
            input.event(data, source, events, ops);
        }
        if self.link.is_connected() != connected {
            self.note(Note::Open);
        }
    }

    /// Lets go of a chain.
    pub(super) fn stop_sending(&mut self) {
        if self.sending.take().is_some() {
            self.link.offer_nothing();
        }
    }

    /// Keeps what the driver has not taken: for whichever port the console's input goes to next, else for this one.
    pub(super) fn stop_receiving(&mut self) {
        if let Link::Console { handle, .. } = &self.link {
            handle.put_back(&self.received);
            self.received.clear();
        }
    }
}

impl Link {
    /// Hands over what can be taken at once; what cannot be taken at all is lost.
    fn offer(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Console { handle, output } => {
                handle.set_used(true);
                output.as_mut().map_or(bytes.len(), |output| output.offer(bytes))
            }
            Self::Endpoint { console: Some(console), .. } => console.offer(bytes),
            Self::Endpoint { endpoint, failed, .. } => match endpoint.output.try_write(bytes) {
                Ok(count) => count,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
                Err(error) => {
                    // The guest can cause one with each byte.
                    if !std::mem::replace(failed, true) {
                        log::warn!("Output of a console's port is lost: {error}");
                    }
                    bytes.len()
                }
            },
        }
    }

    /// What was offered and not taken is no longer there.
    fn offer_nothing(&mut self) {
        if let Self::Console { output: Some(console), .. } | Self::Endpoint { console: Some(console), .. } = self {
            console.offer(&[]);
        }
    }

    fn take(&mut self, bytes: &mut [u8]) -> usize {
        match self {
            Self::Console { handle, .. } => handle.take(bytes),
            Self::Endpoint { endpoint, .. } => endpoint.input.as_mut().map_or(0, |input| input.read(bytes)),
        }
    }

    fn is_connected(&self) -> bool {
        match self {
            Self::Console { .. } => true,
            Self::Endpoint { endpoint, .. } => endpoint.input.as_ref().is_none_or(Input::is_connected),
        }
    }
}
