//! Console device (section 5.3): the guest's console once its drivers are up, and ports for other streams of bytes.
//!
//! Port 0 is the console, which Linux calls `hvc0`. It has a serial port as its companion for the time before: what the
//! guest prints on either goes to the same place, and the monitor hands input to the one that the guest uses.

mod control;
pub(super) mod handle;
mod port;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::interrupt::Interrupt;
use super::{Checked, DeviceConfig, GuestLimits, OpenContext, Opened, VirtioDevice, Worker, read_bytes};
use crate::key_values::{self, KeyValues, OptionError};
use crate::registry::{Key, Kind, Value};
pub use handle::{ConsoleHandle, Size};
use port::Port;
pub use port::PortConfig;
use worker::ConsoleWorker;

/// Device type (section 5).
const DEVICE_TYPE: u32 = 3;
/// Feature bit (section 5.3.3): configuration space tells the terminal's size.
const SIZE: u32 = 0;
/// Feature bit: there are control messages, and may be several ports.
const MULTIPORT: u32 = 1;
/// Entries of every queue: as many as QEMU's has, since drivers of small kernels set up no other number.
const QUEUE_SIZE: u16 = 128;
/// Each port takes two queues, with a descriptor of ours for each.
const PORTS_MAX: usize = 16;

/// Name, keys and help.
static KIND: Kind = Kind {
    name: "console",
    about: "The console once drivers are up, Linux's hvc0 (virtio-console), whose other end --console chooses; \
            with a name, one more port of it (may repeat)",
    keys: &[
        Key {
            name: "name",
            about: "the port's name in the guest: /dev/virtio-ports/NAME",
            value: Value::Text,
            default: "no further port",
        },
        Key {
            name: "file",
            about: "write what the port sends to a file",
            value: Value::Text,
            default: "a port needs one of file, socket and pty",
        },
        Key {
            name: "socket",
            about: "connect the port to a unix socket, for one client at a time",
            value: Value::Text,
            default: "as above",
        },
        Key {
            name: "pty",
            about: "connect the port to a new pseudo-terminal",
            value: Value::Flag,
            default: "as above",
        },
    ],
    bare: None,
    example: "--device console,name=log,file=log.txt",
    standard: true,
    single: true,
};

/// The console, whose other end the machine has, and further ports.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsoleConfig {
    /// Ports beside the console.
    #[serde(default)]
    pub ports: Vec<PortConfig>,
}

impl DeviceConfig for ConsoleConfig {
    const KIND: &'static Kind = &KIND;
    const OPENS_LAST: bool = true;

    fn from_text(values: &KeyValues) -> Result<Self, OptionError> {
        let port = if values.is_plain() { None } else { Some(values.read()?) };
        Ok(Self { ports: port.into_iter().collect() })
    }

    fn texts(&self) -> Vec<String> {
        let mut texts: Vec<_> = self.ports.iter().map(|port| key_values::write(&KIND, port)).collect();
        if texts.is_empty() {
            texts.push(KIND.name.to_owned());
        }
        texts
    }

    fn files(&self) -> Vec<PathBuf> {
        self.ports.iter().flat_map(|port| [&port.file, &port.socket]).flatten().cloned().collect()
    }

    fn join(&mut self, other: Self) -> Result<(), Self> {
        self.ports.extend(other.ports);
        Ok(())
    }

    fn check(&self, _guest: GuestLimits) -> Checked {
        for (index, port) in self.ports.iter().enumerate() {
            port.check()?;
            if self.ports[..index].iter().any(|other| other.name == port.name) {
                return Err(format!("Two ports have the name `{}`", port.name).into());
            }
        }
        let (room, count) = (PORTS_MAX - 1, self.ports.len());
        if count > room {
            return Err(format!("There is room for {room} ports beside the console, not for {count}").into());
        }
        Ok(())
    }

    fn open(&self, context: &OpenContext<'_>) -> Opened {
        let handle = ConsoleHandle::new()?;
        // A guest has one console device.
        let _ = context.console.map(|console| console.set(handle.clone()));
        let mut all = vec![Port::console(handle.clone())];
        for port in &self.ports {
            all.push(Port::open(&port.name, &port.check()?)?);
        }
        Ok(Box::new(Console { count: all.len(), worker: Some(ConsoleWorker::new(all, handle.clone())?), handle }))
    }
}

struct Console {
    count: usize,
    handle: ConsoleHandle,
    worker: Option<ConsoleWorker>,
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        let size = if self.handle.size().is_some() { 1 << SIZE } else { 0 };
        1 << MULTIPORT | size
    }

    fn queue_sizes(&self) -> Vec<u16> {
        // Two of each port's, and two for control.
        vec![QUEUE_SIZE; 2 * (self.count + 1)]
    }

    /// `struct virtio_console_config` (section 5.3.4): columns, rows, the most ports, and no emergency write.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let Size { columns, rows } = self.handle.size().unwrap_or_default();
        let [c0, c1] = columns.to_le_bytes();
        let [r0, r1] = rows.to_le_bytes();
        let [p0, p1, p2, p3] = (self.count as u32).to_le_bytes();
        read_bytes(&[c0, c1, r0, r1, p0, p1, p2, p3], offset, data);
    }

    fn workers(&mut self, interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
        let worker = self.worker.take().map(|mut worker| {
            if let Some(consoles) = self.handle.consoles() {
                worker.connect(&*consoles);
            }
            worker.interrupting(interrupt.clone())
        });
        worker.into_iter().map(|worker| Box::new(worker) as Box<dyn Worker>).collect()
    }
}
