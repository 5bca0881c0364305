//! Control messages (section 5.3.6.2).

use super::handle::Size;

// Kinds of messages (section 5.3.6.2), of which the bindings know nothing.
const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Bytes of a message without what may follow.
pub(super) const MESSAGE: usize = 8;

/// What the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FromDriver {
    /// It wants to know the ports.
    DeviceReady,
    /// It has set up a port, or could not.
    PortReady { port: usize, ready: bool },
    /// A port was opened or closed.
    PortOpen { port: usize, open: bool },
}

/// What a driver is still to be told about a port, in the order in which it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// It exists.
    Add,
    /// It is a console.
    Console,
    /// How large its terminal is.
    Resize,
    /// What it is called.
    Name,
    /// Whether somebody is at the other end.
    Open,
}

impl Note {
    pub(super) const ALL: [Self; 5] = [Self::Add, Self::Console, Self::Resize, Self::Name, Self::Open];
}

impl FromDriver {
    /// Reads a message; there is none of an unknown kind.
    pub(super) fn parse(bytes: [u8; MESSAGE]) -> Option<Self> {
        let [p0, p1, p2, p3, e0, e1, v0, v1] = bytes;
        let port = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
        let value = u16::from_le_bytes([v0, v1]);
        match u16::from_le_bytes([e0, e1]) {
            DEVICE_READY if value == 1 => Some(Self::DeviceReady),
            PORT_READY => Some(Self::PortReady { port, ready: value == 1 }),
            PORT_OPEN => Some(Self::PortOpen { port, open: value == 1 }),
            _ => None,
        }
    }
}

/// A message without what may follow.
fn message(port: usize, event: u16, value: u16) -> Vec<u8> {
    let mut bytes = (port as u32).to_le_bytes().to_vec();
    bytes.extend(event.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes
}

pub(super) fn add(port: usize) -> Vec<u8> {
    message(port, PORT_ADD, 1)
}

pub(super) fn console(port: usize) -> Vec<u8> {
    message(port, CONSOLE_PORT, 1)
}

/// Rows stand before columns: the specification has it the other way round, but Linux always read it like this and kept to
/// it (drivers/char/virtio_console.c, `handle_control_message`).
pub(super) fn resize(port: usize, size: Size) -> Vec<u8> {
    let mut bytes = message(port, RESIZE, 0);
    bytes.extend(size.rows.to_le_bytes());
    bytes.extend(size.columns.to_le_bytes());
    bytes
}

pub(super) fn name(port: usize, name: &str) -> Vec<u8> {
    let mut bytes = message(port, PORT_NAME, 1);
    bytes.extend(name.bytes());
    bytes
}

pub(super) fn open(port: usize, open: bool) -> Vec<u8> {
    message(port, PORT_OPEN, open.into())
}
