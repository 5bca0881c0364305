//! What fuzzing starts from: sessions of drivers that do right.

use std::path::PathBuf;
use std::{env, fs};

use super::{HANGS_UP, drive, r};

/// Steps, as the input that stands for them.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn write(mut self, register: u64, value: u32) -> Self {
        self.0.extend([0, (register / 4) as u8]);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn memory(mut self, address: u32, bytes: &[u8]) -> Self {
        self.0.push(3);
        self.0.extend(&address.to_le_bytes()[..3]);
        self.0.push(bytes.len() as u8);
        self.0.extend(bytes);
        self
    }

    fn settle(mut self) -> Self {
        self.0.push(4);
        self
    }

    fn start(mut self) -> Self {
        self.0.extend([5, 0, 5]);
        self
    }

    /// Room for a frame at this address, as a chain of one.
    fn room(mut self, queue: u8, head: u8, address: u32, length: u32) -> Self {
        self.0.extend([6, queue, head]);
        self.0.extend(&address.to_le_bytes()[..3]);
        self.0.extend(length.to_le_bytes());
        self.0.extend([2, 0, 7, queue, head]);
        self
    }

    fn network(mut self, queue: u8, header: [u8; 12], length: u16) -> Self {
        self.0.extend([9, queue]);
        self.0.extend(header);
        self.0.extend(length.to_le_bytes());
        self
    }

    fn request(mut self, queue: u8, readable: &[u8], writable: u8) -> Self {
        self.0.extend([8, queue, readable.len() as u8, writable]);
        self.0.extend(readable);
        self
    }
}

/// Negotiation, one queue, one request, by registers and memory alone.
fn transport() -> Script {
    let mut script = Script::default().write(r::STATUS, 0).write(r::STATUS, 1).write(r::STATUS, 3);
    script = script.write(r::DRIVER_FEATURES_SELECT, 1).write(r::DRIVER_FEATURES, 1).write(r::STATUS, 11);
    for queue in 0..2 {
        let base = 0x1000 * (queue + 1);
        script = script.write(r::QUEUE_SELECT, queue).write(r::QUEUE_SIZE, 8);
        for (register, offset) in [(r::DESCRIPTORS, 0), (r::AVAILABLE, 0x200), (r::USED, 0x300)] {
            script = script.write(register, base + offset);
        }
        script = script.write(r::QUEUE_READY, 1);
    }
    // Descriptor 0: 16 bytes at 0x8000, for the device to read.
    let descriptor = [&0x8000_u64.to_le_bytes()[..], &16_u32.to_le_bytes(), &[0; 4]].concat();
    script = script.write(r::STATUS, 15).memory(0x2000, &descriptor).memory(0x2200, &[0, 0, 1, 0, 0, 0]);
    script.write(r::NOTIFY, 1).settle().write(r::INTERRUPT_ACK, 1).write(r::STATUS, 0)
}

fn rng() -> Script {
    Script::default().start().request(0, b"", 64).request(0, b"", 255).start().request(0, b"", 1)
}

fn console() -> Script {
    let message = |port: u8, event: u8| [port, 0, 0, 0, event, 0, 1, 0];
    let mut script = Script::default().start().request(2, b"", 64).request(3, &message(0, 0), 0);
    for port in 0..2 {
        script = script.request(3, &message(port, 3), 0).request(2, b"", 64).request(3, &message(port, 6), 0);
    }
    script.request(1, b"printed", 0).request(0, b"", 64).request(5, b"sent", 0).request(4, b"", 64)
}

fn blk() -> Script {
    let header = |kind: u8, sector: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0, sector][..], &[0; 7]].concat();
    // Flush and identification; data is more than a step's request can hold, so reads and writes are found from there.
    Script::default().start().request(0, &header(4, 0), 1).request(0, &header(8, 0), 21).request(0, &header(0, 0), 255)
}

fn balloon() -> Script {
    // Page frames 40 and 41 are given up and taken back.
    let pages = [40, 0, 0, 0, 41, 0, 0, 0];
    Script::default().start().request(0, &pages, 0).request(1, &pages, 0)
}

/// Frames both ways by both queue pairs, with and without checksums and segments left to do, in one buffer and in several.
fn net() -> Script {
    let plain = [0; 12];
    let checksum = [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0];
    let segments = [1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0];
    let sent = |header: [u8; 12]| [&header[..], &[0x55; 120]].concat();
    let mut script = Script::default().start().request(4, &[4, 0, 2, 0], 1);
    for pair in [0, 1] {
        for header in [plain, checksum, segments] {
            script =
                script.network(pair, header, 120).request(2 * pair, b"", 255).request(2 * pair + 1, &sent(header), 0);
        }
    }
    let [first, second, third] = [0x10_0000, 0x10_1000, 0x10_2000];
    script = script.network(0, segments, 4000).room(0, 1, first, 1526).room(0, 2, second, 1526).room(0, 3, third, 1526);
    // Too long for its buffer, and one that fits.
    script
        .settle()
        .network(1, plain, 300)
        .network(1, plain, 60)
        .request(2, b"", 128)
        .network(HANGS_UP, plain, 0)
        .settle()
}

fn vsock() -> Script {
    // From port 1024 of the guest to port 7 of the host, where nobody listens: requests, data, the end (section 5.10.6).
    let packet = |operation: u8, data: &[u8]| {
        let mut header = vec![3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 7, 0, 0, 0];
        header.extend([data.len() as u8, 0, 0, 0, 1, 0, operation, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0]);
        header.extend(data);
        header
    };
    let mut script = Script::default().start();
    for operation in [1, 5, 6, 4, 3] {
        script =
            script.request(1, &packet(operation, if operation == 5 { b"data" } else { b"" }), 0).request(0, b"", 255);
    }
    script
}

#[test]
fn seeds_reach_what_they_are_for() {
    let scratch = env::temp_dir().join(format!("carpel-seeds-{}", std::process::id()));
    let directory = env::var_os("CARPEL_CORPUS").map_or_else(|| scratch.clone(), PathBuf::from);
    let seeds = [
        ("transport", transport(), 0),
        ("balloon", balloon(), 2),
        ("blk", blk(), 3),
        ("console", console(), 8),
        ("net", net(), 14),
        ("rng", rng(), 3),
        ("vsock", vsock(), 6),
    ];
    for (target, Script(input), wanted) in seeds {
        // A busy machine may let a device answer too late now and then.
        let best = (0..20).map(|_| drive(target, &input)).max_by_key(|seen| seen.used).unwrap();
        assert!(best.live && best.used >= wanted, "{target}: {best:?}");
        fs::create_dir_all(directory.join(target)).unwrap();
        fs::write(directory.join(target).join("session"), input).unwrap();
    }
    let _ = fs::remove_dir_all(scratch);
}
