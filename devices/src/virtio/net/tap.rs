//! A tap interface of the host (Documentation/networking/tuntap.rst of Linux).

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_short};
use thiserror::Error;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
};

use super::features::has;
use super::header;
use super::link::Link;

const DEVICE: &str = "/dev/net/tun";

const HEADER_SIZE: u32 = header::SIZE as u32;

/// What a tap can be told to leave to the guest (TUNSETOFFLOAD), and the feature that allows it.
const OFFLOADS: [(libc::c_uint, u32); 4] = [
    (libc::TUN_F_CSUM, VIRTIO_NET_F_GUEST_CSUM),
    (libc::TUN_F_TSO4, VIRTIO_NET_F_GUEST_TSO4),
    (libc::TUN_F_TSO6, VIRTIO_NET_F_GUEST_TSO6),
    (libc::TUN_F_TSO_ECN, VIRTIO_NET_F_GUEST_ECN),
];

/// Why there is no tap.
#[derive(Debug, Error)]
pub enum TapError {
    /// The name can be no interface's.
    #[error("`{0}` cannot be an interface's name: that has 1 to 15 bytes without `/`, `%`, `:` and spaces")]
    Name(String),
    /// The kernel's tap driver cannot be reached.
    #[error("Cannot open {DEVICE} (`modprobe tun` loads its driver; every user may open it by default)")]
    Device(#[source] io::Error),
    /// The tap is not there, or another user's.
    #[error(
        "No permission to use the tap `{name}` or to create it; make it once, as root: `ip tuntap add dev {name} \
        mode tap user $USER{multi_queue} && ip link set {name} up`"
    )]
    Permission {
        /// The interface.
        name: String,
        /// What the command must also say.
        multi_queue: &'static str,
    },
    /// The tap serves another program.
    #[error("Another program uses the tap `{0}`")]
    Busy(String),
    /// The interface is another kind of thing.
    #[error(
        "The interface `{name}` is no tap for {queues} queue(s): remove it, or make it by `ip tuntap add dev {name} \
        mode tap{multi_queue}`"
    )]
    Kind {
        /// The interface.
        name: String,
        /// Queues that are wanted.
        queues: usize,
        /// What the command must also say.
        multi_queue: &'static str,
    },
    /// The host refuses a size of packets.
    #[error("Cannot set the MTU of the tap `{name}` to {mtu} (as root: `ip link set dev {name} mtu {mtu}`)")]
    Mtu {
        /// The interface.
        name: String,
        /// Bytes.
        mtu: u16,
        /// The cause.
        source: io::Error,
    },
    /// Something that works everywhere.
    #[error("Cannot use the tap `{name}`: {attempt}")]
    Call {
        /// The interface.
        name: String,
        /// What was tried.
        attempt: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// One queue of a tap.
#[derive(Debug)]
pub struct Tap {
    file: File,
    attached: AtomicBool,
}

/// The interface that a tap is on the host's side.
#[derive(Debug)]
pub struct Interface {
    name: String,
    /// Any socket takes calls for interfaces of its network namespace.
    socket: UnixDatagram,
}

impl Tap {
    /// Opens an existing tap or creates one that lasts as long as it is open, and sets it up. Frames come by the first queue only.
    /// The user is told of one that is down: bringing it up may take rights that its user does not have.
    pub fn open(name: &str, queues: usize) -> Result<Vec<Self>, TapError> {
        let interface = Interface::new(name)?;
        let created = interface.flags().is_err();
        let taps = (0..queues).map(|_| Self::open_queue(name, queues)).collect::<Result<Vec<_>, _>>()?;
        if created {
            interface.bring_up()?;
        } else if interface.is_down() {
            log::warn!("The tap `{name}` is down: no frame passes before, as root, `ip link set {name} up`");
        }
        for (number, tap) in taps.iter().enumerate() {
            tap.set_offloads(0).map_err(|source| interface.failed("set its offloads", source))?;
            tap.attach(number == 0).map_err(|source| interface.failed("detach a queue", source))?;
        }
        Ok(taps)
    }

    fn open_queue(name: &str, queues: usize) -> Result<Self, TapError> {
        let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
        let file = file.map_err(TapError::Device)?;
        let multi_queue = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let mut request = request(name)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | multi_queue) as c_short;
        if let Err(source) = interface_call(&file, libc::TUNSETIFF, &mut request) {
            return Err(refusal(name, queues, source));
        }
        let settings = [
            ("set the size of the header", libc::TUNSETVNETHDRSZ, HEADER_SIZE),
            // Headers are little-endian whatever the host is.
            ("set the byte order of the header", libc::TUNSETVNETLE, 1),
        ];
        for (attempt, number, value) in settings {
            number_call(&file, number, value).map_err(|source| TapError::Call {
                name: name.to_owned(),
                attempt,
                source,
            })?;
        }
        Ok(Self { file, attached: AtomicBool::new(true) })
    }
}

impl Link for Tap {
    fn file(&self) -> &File {
        &self.file
    }

    fn set_offloads(&self, features: u64) -> io::Result<()> {
        let bits = OFFLOADS.iter().filter(|(_, feature)| has(features, *feature)).fold(0, |bits, (bit, _)| bits | bit);
        // SAFETY: this call takes its argument as a number.
        checked(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(bits)) })
    }

    fn attach(&self, on: bool) -> io::Result<()> {
        // The kernel takes it for an error to be told what is so already.
        if self.attached.load(Ordering::Acquire) == on {
            return Ok(());
        }
        let mut request = request("").map_err(io::Error::other)?;
        request.ifr_ifru.ifru_flags = if on { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE } as c_short;
        interface_call(&self.file, libc::TUNSETQUEUE, &mut request)?;
        self.attached.store(on, Ordering::Release);
        Ok(())
    }
}

impl Interface {
    /// The interface of this name, whether or not there is one.
    pub fn new(name: &str) -> Result<Self, TapError> {
        let wrong = |byte: u8| matches!(byte, b'/' | b'%' | b':') || byte.is_ascii_whitespace() || byte == 0;
        // A longer name would not leave room for the zero behind it.
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || matches!(name, "." | "..") || name.bytes().any(wrong) {
            return Err(TapError::Name(name.to_owned()));
        }
        let socket = UnixDatagram::unbound();
        let call = |source| TapError::Call { name: name.to_owned(), attempt: "create a socket", source };
        Ok(Self { name: name.to_owned(), socket: socket.map_err(call)? })
    }

    /// The longest IP packet in bytes that the host sends to it.
    pub fn mtu(&self) -> Result<u16, TapError> {
        let mut request = request(&self.name)?;
        self.call(libc::SIOCGIFMTU as _, &mut request).map_err(|source| self.failed("get its MTU", source))?;
        // SAFETY: the kernel has filled in this variant of the union, which any bytes are a value of.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Changes that.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), TapError> {
        if self.mtu()? == mtu {
            return Ok(());
        }
        let mut request = request(&self.name)?;
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.call(libc::SIOCSIFMTU as _, &mut request).map_err(|source| TapError::Mtu {
            name: self.name.clone(),
            mtu,
            source,
        })
    }

    fn flags(&self) -> io::Result<c_short> {
        let mut request = request(&self.name).map_err(io::Error::other)?;
        self.call(libc::SIOCGIFFLAGS as _, &mut request)?;
        // SAFETY: the kernel has filled in this variant of the union, which any bytes are a value of.
        Ok(unsafe { request.ifr_ifru.ifru_flags })
    }

    /// Whether the host passes no frames.
    fn is_down(&self) -> bool {
        self.flags().is_ok_and(|flags| flags & libc::IFF_UP as c_short == 0)
    }

    fn bring_up(&self) -> Result<(), TapError> {
        let up = || {
            let flags = self.flags()?;
            let mut request = request(&self.name).map_err(io::Error::other)?;
            request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short;
            self.call(libc::SIOCSIFFLAGS as _, &mut request)
        };
        up().map_err(|source| self.failed("bring it up", source))
    }

    fn call(&self, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        interface_call(&self.socket, number as _, request)
    }

    fn failed(&self, attempt: &'static str, source: io::Error) -> TapError {
        TapError::Call { name: self.name.clone(), attempt, source }
    }
}

/// What the kernel's refusal of a tap means.
fn refusal(name: &str, queues: usize, source: io::Error) -> TapError {
    let multi_queue = if queues > 1 { " multi_queue" } else { "" };
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::Permission { name, multi_queue },
        Some(libc::EBUSY) => TapError::Busy(name),
        Some(libc::EINVAL) => TapError::Kind { name, queues, multi_queue },
        _ => TapError::Call { name, attempt: "open it", source },
    }
}

/// A request about the interface of a valid name.
fn request(name: &str) -> Result<libc::ifreq, TapError> {
    // SAFETY: zeros are a value of this structure of integers, and of a pointer that the calls made here do not use.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let last = request.ifr_name.len() - 1;
    let room = request.ifr_name[..last].get_mut(..name.len()).ok_or_else(|| TapError::Name(name.to_owned()))?;
    for (place, byte) in room.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    Ok(request)
}

/// A call about interfaces, one whose argument is an `ifreq`.
fn interface_call(file: &impl AsRawFd, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the callers' numbers are of calls that take an `ifreq`, borrowed for writing, and keep no pointer to it.
    checked(unsafe { libc::ioctl(file.as_raw_fd() as RawFd, number as _, request) })
}

/// A call of a tap whose argument points to a number.
fn number_call(file: &File, number: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: the callers' numbers are of calls that read a number of 32 bits and keep no pointer to it.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), number as _, &raw const value) })
}

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_be_an_interfaces() {
        for name in ["", ".", "..", "a/b", "tap%d", "a b", "a:b", "sixteen-bytes-xx", "nul\0"] {
            assert!(matches!(Interface::new(name), Err(TapError::Name(_))), "{name:?}");
        }
        Interface::new("fifteen-bytes-x").unwrap();
    }

    #[test]
    fn a_refusal_says_what_helps() {
        let says = |number, queues| refusal("tap7", queues, io::Error::from_raw_os_error(number)).to_string();
        let command = "`ip tuntap add dev tap7 mode tap user $USER && ip link set tap7 up`";
        assert!(says(libc::EPERM, 1).ends_with(command), "{}", says(libc::EPERM, 1));
        assert!(says(libc::EPERM, 2).contains("user $USER multi_queue &&"));
        assert_eq!(says(libc::EBUSY, 1), "Another program uses the tap `tap7`");
        assert!(says(libc::EINVAL, 4).ends_with(
            "no tap for 4 queue(s): remove it, or make it by `ip tuntap add dev tap7 mode tap multi_queue`"
        ));
    }
}
