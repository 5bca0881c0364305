//! Socket device (section 5.10): connections between the guest and programs of the host, over unix sockets.
//!
//! A program of the host connects to the device's socket, sends `CONNECT PORT` and a line feed, and gets `OK PORT` with a
//! port of the host's when the guest accepted. A connection of the guest's to port N of the host (context identifier 2) goes to the
//! socket of that name with `_N` behind it.

mod connection;
mod packet;
mod worker;

use std::path::Path;

use thiserror::Error;

use super::interrupt::Interrupt;
use super::{Opened, VirtioDevice, VirtioKind, Worker};
use crate::host_socket::HostSocket;
use crate::registry::{Key, Kind, Options, Value};
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

/// The socket device for `--device`.
pub static KIND: VirtioKind = VirtioKind {
    kind: Kind {
        name: "vsock",
        about: "Sockets between the guest and the host's programs (virtio-vsock)",
        keys: &[
            Key {
                name: "uds",
                about: "unix socket where the host connects; the guest's connections to port N go to PATH_N",
                value: Value::Text,
                default: "must be given",
            },
            Key { name: "cid", about: "the guest's context identifier, from 3 up", value: Value::Size, default: "3" },
        ],
        example: "--device vsock,cid=3,uds=vm.sock",
        standard: false,
    },
    check: |options| Ok(settings(options).map(drop)?),
    open,
};

/// A device that cannot be.
#[derive(Debug, Error)]
enum OpenError {
    #[error("It needs `uds=PATH`, the unix socket where the host connects")]
    NoPath,
    #[error("The guest's context identifier `cid={0}` is not in {start}-{end}", start = CIDS.start(), end = CIDS.end())]
    Cid(u64),
}

/// The guest's context identifier and the host's socket.
fn settings(options: &Options) -> Result<(u64, &Path), OpenError> {
    let cid = options.size("cid").unwrap_or(*CIDS.start());
    if !CIDS.contains(&cid) {
        return Err(OpenError::Cid(cid));
    }
    let path = options.get("uds").ok_or(OpenError::NoPath)?;
    Ok((cid, Path::new(path)))
}

fn open(options: &Options) -> Opened {
    let (cid, path) = settings(options)?;
    let worker = VsockWorker::new(cid, HostSocket::bind(path)?)?;
    Ok(Box::new(Vsock { cid, worker: Some(worker) }))
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
