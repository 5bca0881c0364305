//! Socket device (section 5.10): connections between the guest and programs of the host, over unix sockets.
//!
//! A program of the host connects to the device's socket, sends `CONNECT PORT` and a line feed, and gets `OK PORT` with a
//! port of the host's when the guest accepted. A connection of the guest's to port N of the host (context identifier 2) goes to the
//! socket of that name with `_N` behind it.

mod connection;
mod packet;
mod worker;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::interrupt::Interrupt;
use super::{Checked, DeviceConfig, GuestLimits, OpenContext, Opened, VirtioDevice, Worker};
use crate::host_socket::HostSocket;
use crate::registry::{Key, Kind, Value};
use worker::VsockWorker;

/// Device type (section 5).
const DEVICE_TYPE: u32 = 19;
/// Packets of up to 64 KiB each; Linux fills the receive queue with buffers of 4 KiB.
const QUEUE_SIZE: u16 = 256;
/// Queues: packets to the guest, packets from it, and events, of which there are none yet.
const RX: usize = 0;
const TX: usize = 1;
const QUEUES: usize = 3;
/// The identifiers below are the hypervisor's, the local one and the host's; the one above means any (section 5.10.4).
const CIDS: std::ops::RangeInclusive<u64> = 3..=0xFFFF_FFFE;

/// Name, keys and help.
static KIND: Kind = Kind {
    name: "vsock",
    about: "Sockets between the guest and the host's programs (virtio-vsock)",
    keys: &[
        Key {
            name: "uds",
            about: "unix socket where the host connects; the guest's connections to port N go to PATH_N",
            value: Value::Text,
            default: "must be given",
        },
        Key { name: "cid", about: "the guest's context identifier, from 3 up", value: Value::Number, default: "3" },
    ],
    bare: None,
    example: "--device vsock,cid=3,uds=vm.sock",
    standard: false,
    // Linux drives one (net/vmw_vsock/virtio_transport.c).
    single: true,
};

/// Sockets between guest and host.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// Unix socket where the host connects.
    #[serde(default)]
    pub uds: PathBuf,
    /// The guest's context identifier.
    #[serde(default = "first_cid")]
    pub cid: u64,
}

const fn first_cid() -> u64 {
    *CIDS.start()
}

/// A device that cannot be.
#[derive(Debug, Error)]
enum ConfigError {
    #[error("It needs `uds=PATH`, the unix socket where the host connects")]
    NoPath,
    #[error("The guest's context identifier `cid={0}` is not in {start}-{end}", start = CIDS.start(), end = CIDS.end())]
    Cid(u64),
}

impl DeviceConfig for VsockConfig {
    const KIND: &'static Kind = &KIND;

    fn files(&self) -> Vec<PathBuf> {
        vec![self.uds.clone()]
    }

    fn check(&self, _guest: GuestLimits) -> Checked {
        if !CIDS.contains(&self.cid) {
            return Err(ConfigError::Cid(self.cid).into());
        }
        if self.uds.as_os_str().is_empty() {
            return Err(ConfigError::NoPath.into());
        }
        Ok(())
    }

    fn open(&self, _context: &OpenContext<'_>) -> Opened {
        let worker = VsockWorker::new(self.cid, HostSocket::bind(&self.uds)?.with_ports()?)?;
        Ok(Box::new(Vsock { cid: self.cid, worker: Some(worker) }))
    }
}

struct Vsock {
    cid: u64,
    worker: Option<VsockWorker>,
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_bytes(&self.cid.to_le_bytes(), offset, data);
    }

    fn workers(&mut self, _interrupt: &Interrupt) -> Vec<Box<dyn Worker>> {
        self.worker.take().into_iter().map(|worker| Box::new(worker) as Box<dyn Worker>).collect()
    }
}

#[cfg(test)]
mod tests;
