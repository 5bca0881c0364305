//! The devices that are fuzzed, by target.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::LazyLock;

use super::Driver;

/// A disk without a name, of 64 KiB.
static DISK: LazyLock<File> = LazyLock::new(|| {
    let disk = tempfile::tempfile().expect("There is room for a disk");
    disk.set_len(64 << 10).expect("There is room for a disk");
    disk
});

/// What is said to `--device` for a target, and which driver the device gets.
pub(crate) fn of(target: &str) -> (Vec<String>, Driver) {
    let helped = |texts: &[&str]| (texts.iter().map(|&text| text.to_owned()).collect(), Driver::Helped);
    match target {
        // The device with the most queues.
        "transport" => (of("console").0, Driver::Raw),
        "balloon" => helped(&["balloon,size=64K"]),
        "blk" => helped(&[&format!("blk,path=/proc/self/fd/{}", DISK.as_raw_fd())]),
        "console" => helped(&["console", "console,name=log,file=/dev/null"]),
        "rng" => helped(&["rng"]),
        "vsock" => {
            let socket = std::env::temp_dir().join(format!("carpel-fuzz-{}", std::process::id()));
            helped(&[&format!("vsock,uds={}", socket.display())])
        }
        _ => panic!("There is no target {target}"),
    }
}
