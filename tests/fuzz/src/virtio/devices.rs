//! The devices that are fuzzed, by target.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::LazyLock;

use carpel_devices::virtio::config::VirtioConfig;
use carpel_devices::virtio::{OpenContext, VirtioDevice};

use super::Driver;
use super::net::{self, Host};

/// A disk without a name, of 64 KiB.
static DISK: LazyLock<File> = LazyLock::new(|| {
    let disk = tempfile::tempfile().expect("There is room for a disk");
    disk.set_len(64 << 10).expect("There is room for a disk");
    disk
});

/// A device, the driver that it gets, and the network behind it, if it has one.
pub(super) struct Target {
    pub device: Box<dyn VirtioDevice>,
    pub driver: Driver,
    pub host: Option<Host>,
}

pub(super) fn open(target: &str) -> Target {
    let helped = |texts: &[&str]| Target { device: device(texts), driver: Driver::Helped, host: None };
    match target {
        // The device with the most queues.
        "transport" => Target { driver: Driver::Raw, ..open("console") },
        "balloon" => helped(&["balloon,size=64K"]),
        "blk" => helped(&[&format!("blk,path=/proc/self/fd/{}", DISK.as_raw_fd())]),
        "console" => helped(&["console", "console,name=log,file=/dev/null"]),
        "net" => {
            let (device, host) = net::open("net,tap=none,queues=2,rx-rate=8M,tx-rate=8M");
            Target { device, driver: Driver::Helped, host: Some(host) }
        }
        "rng" => helped(&["rng"]),
        "vsock" => {
            let socket = std::env::temp_dir().join(format!("carpel-fuzz-{}", std::process::id()));
            helped(&[&format!("vsock,uds={}", socket.display())])
        }
        _ => panic!("There is no target {target}"),
    }
}

/// What these texts for `--device` make.
fn device(texts: &[&str]) -> Box<dyn VirtioDevice> {
    let mut all = texts.iter().map(|text| VirtioConfig::parse(text).expect("The text is right"));
    let mut config = all.next().expect("There is a text");
    all.for_each(|more| config.join(more).expect("The texts add up"));
    config.open(&OpenContext::default()).expect("The host has what the device needs")
}
