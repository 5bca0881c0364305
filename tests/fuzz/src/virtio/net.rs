//! A network interface whose network is the input: pairs of sockets stand for the queues of a tap.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use carpel_devices::virtio::VirtioDevice;
use carpel_devices::virtio::config::VirtioConfig;
use carpel_devices::virtio::net::{Link, Net};

/// Bytes of the header before each frame, of an Ethernet header, and of the longest frame.
const HEADER: usize = 12;
const ETHERNET: usize = 14;
const FRAME_MAX: usize = ETHERNET + 4 + 0xFFFF;
const MTU: u16 = 1500;

/// Bits and values of the header (virtio 1.2, section 5.1.6).
const NEEDS_CSUM: u8 = 1;
const ECN: u8 = 0x80;
const SEGMENTS: [u8; 2] = [1, 4];

struct Wire(File);

impl Link for Wire {
    fn file(&self) -> &File {
        &self.0
    }

    fn set_offloads(&self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn attach(&self, _on: bool) -> io::Result<()> {
        Ok(())
    }
}

/// The other ends of a device's queues.
pub(super) struct Host {
    ends: Vec<UnixDatagram>,
    buffer: Vec<u8>,
}

/// A device and its network.
pub(super) fn open(text: &str) -> (Box<dyn VirtioDevice>, Host) {
    let Ok(VirtioConfig::Net(config)) = VirtioConfig::parse(text) else { panic!("{text} is no network device") };
    let (links, ends) = (0..config.queues).map(|_| wire().expect("There are sockets")).unzip();
    let device = Net::new(&config, MTU, links).expect("There are timers");
    (Box::new(device), Host { ends, buffer: vec![0; 2 * FRAME_MAX] })
}

fn wire() -> io::Result<(Arc<dyn Link>, UnixDatagram)> {
    let (device, host) = UnixDatagram::pair()?;
    device.set_nonblocking(true)?;
    host.set_nonblocking(true)?;
    Ok((Arc::new(Wire(OwnedFd::from(device).into())), host))
}

impl Host {
    /// Sends a frame of so many bytes to a queue of the guest's. What has no room on the way is lost.
    pub(super) fn send(&self, queue: usize, header: &[u8], length: usize) {
        let frame = vec![length as u8; length];
        let _ = self.end(queue).send(&[header, &frame].concat());
    }

    /// The interface goes away.
    pub(super) fn hang_up(&self, queue: usize) {
        self.end(queue).shutdown(Shutdown::Both).expect("It is connected");
    }

    /// Takes what the guest has sent. Whatever it asked for, the host's kernel is asked for nothing that the frame cannot bear.
    pub(super) fn receive(&mut self) {
        for end in &self.ends {
            while let Ok(count @ 1..) = end.recv(&mut self.buffer) {
                let (header, frame) = self.buffer[..count].split_at(HEADER);
                check(header, frame.len());
            }
        }
    }

    fn end(&self, queue: usize) -> &UnixDatagram {
        &self.ends[queue % self.ends.len()]
    }
}

fn check(header: &[u8], frame: usize) {
    assert!((ETHERNET..=FRAME_MAX).contains(&frame), "{frame}");
    let word = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (flags, kind) = (header[0], header[1]);
    let (headers_end, segment, checksum_start, checksum_offset, buffers) =
        (word(2), word(4), word(6), word(8), word(10));
    assert!(flags & !NEEDS_CSUM == 0 && headers_end <= frame && buffers == 0, "{header:?}");
    if flags & NEEDS_CSUM != 0 {
        assert!(checksum_start + checksum_offset + 2 <= frame, "{header:?}");
    }
    if kind != 0 {
        assert!(flags & NEEDS_CSUM != 0 && segment > 0 && SEGMENTS.contains(&(kind & !ECN)), "{header:?}");
    }
}
