//! A unix socket for one client at a time.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, EventSet, Events};

use crate::host_socket::{HostSocket, SocketError};

/// Somebody connects.
const LISTENER: u32 = 0;
/// The client sent something, or is gone.
const CLIENT: u32 = 1;

/// The socket, shared by both directions.
#[derive(Debug)]
pub(super) struct Socket {
    listener: HostSocket,
    client: Mutex<Option<Arc<UnixStream>>>,
}

/// The direction that also looks after clients.
#[derive(Debug)]
pub(super) struct SocketInput {
    socket: Arc<Socket>,
    /// The client, until all that it sent is read.
    client: Option<Client>,
}

#[derive(Debug)]
struct Client {
    stream: Arc<UnixStream>,
    /// It sends nothing any more.
    ended: bool,
    /// It does not read any more either.
    gone: bool,
}

impl Socket {
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        Ok(Self { listener: HostSocket::bind(path)?, client: Mutex::default() })
    }

    pub(super) fn client(&self) -> Option<Arc<UnixStream>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_client(&self, client: Option<Arc<UnixStream>>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(client) = self.client() else { return Ok(bytes.len()) };
        match (&*client).write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // It has just gone, which its own event tells.
            Err(_) => Ok(bytes.len()),
            result => result,
        }
    }
}

impl SocketInput {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, client: None }
    }

    pub(super) fn register(&self, data: u32, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        let listener = self.socket.listener.listener();
        ops.add(Events::with_data(listener, data + LISTENER, EventSet::IN | EventSet::EDGE_TRIGGERED))
    }

    pub(super) fn event(&mut self, data: u32, number: u32, events: Events, ops: &mut EventOps) {
        if number == LISTENER {
            while let Ok(stream) = self.socket.listener.accept() {
                // Who comes while another is there is turned away.
                if !self.is_connected() {
                    self.admit(stream, data, ops);
                }
            }
        } else if events.event_set().contains(EventSet::HANG_UP)
            && let Some(client) = &mut self.client
        {
            client.gone = true;
            self.socket.set_client(None);
            let _ = ops.remove(Events::empty(&*client.stream));
        }
    }

    fn admit(&mut self, stream: UnixStream, data: u32, ops: &mut EventOps) {
        let stream = Arc::new(stream);
        let events = Events::with_data(&*stream, data + CLIENT, EventSet::IN | EventSet::EDGE_TRIGGERED);
        if let Err(error) = ops.add(events) {
            return log::warn!("A client of a console's socket is turned away: {error}");
        }
        self.socket.set_client(Some(Arc::clone(&stream)));
        self.client = Some(Client { stream, ended: false, gone: false });
    }

    pub(super) fn read(&mut self, bytes: &mut [u8]) -> usize {
        let Some(client) = self.client.as_mut().filter(|client| !client.ended) else { return 0 };
        loop {
            match (&*client.stream).read(bytes) {
                Ok(0) => client.ended = true,
                Ok(count) => return count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => client.ended = true,
            }
            return 0;
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.as_ref().is_some_and(|client| !client.gone)
    }
}
