//! A disk against a driver, honest or not.

mod answers;
mod hostile;
mod images;
mod resets;
mod soak;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use tempfile::TempDir;
use vm_memory::VolatileSlice;

use super::*;
use crate::virtio::config::make_from;
use crate::virtio::testing::{BUFFERS, Guest, HIGH_MEMORY, MEMORY, NEXT, WRITE, register as r};

const SECTOR: usize = 512;
const SECTORS: u64 = 64;

/// Where requests' headers and status bytes are; data is behind.
const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 16;
const DATA: u64 = BUFFERS + 0x1000;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// No status that there is.
const NONE: u8 = 0xAA;

/// An image whose every sector holds its number, and the guest that has it.
struct Machine {
    guest: Guest,
    path: PathBuf,
    scratch: TempDir,
}

impl Machine {
    fn new(keys: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("disk.img");
        fs::write(&path, (0..SECTORS).flat_map(|sector| [sector as u8; SECTOR]).collect::<Vec<_>>()).unwrap();
        Self::with_image(scratch, path, keys)
    }

    fn with_image(scratch: TempDir, path: PathBuf, keys: &str) -> Self {
        let mut guest = Guest::new(make_from(&format!("blk,path={}{keys}", path.display())).unwrap());
        guest.start();
        Self { guest, path, scratch }
    }

    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> u8 {
        request(&mut self.guest, kind, sector, data)
    }

    fn image(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

fn put_header(guest: &Guest, address: u64, kind: u32, sector: u64) {
    use vm_memory::{Bytes as _, GuestAddress};
    let mut header = [kind.to_le_bytes(), [0; 4]].concat();
    header.extend(sector.to_le_bytes());
    guest.memory.write_slice(&header, GuestAddress(address)).unwrap();
}

fn put_bytes(guest: &Guest, address: u64, bytes: &[u8]) {
    use vm_memory::{Bytes as _, GuestAddress};
    guest.memory.write_slice(bytes, GuestAddress(address)).unwrap();
}

/// One request; returns its status.
fn request(guest: &mut Guest, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> u8 {
    put_header(guest, HEADER, kind, sector);
    put_bytes(guest, STATUS, &[NONE]);
    let mut buffers = vec![(HEADER, 16, 0)];
    buffers.extend(data);
    buffers.push((STATUS, 1, WRITE));
    let room: u32 = data.iter().filter(|buffer| buffer.2 == WRITE).map(|buffer| buffer.1).sum();
    let used = guest.request(0, &buffers);
    let status = guest.bytes(STATUS, 1)[0];
    // The bytes that are written from the first one on (section 2.7.8.2): a status behind a gap is not counted.
    let written = match (kind, status) {
        (IN, OK) => room,
        (GET_ID, OK) => room.min(20),
        _ => 0,
    };
    assert_eq!(used, if written == room { room + 1 } else { written }, "{kind} {status}");
    status
}

#[test]
fn configuration_tells_size_and_limits() {
    let mut machine = Machine::new("");
    let mut config = |offset| machine.guest.read(r::CONFIG + offset);
    assert_eq!((config(0), config(4)), (SECTORS as u32, 0));
    assert_eq!((config(8), config(12)), (4 << 20, 254));
    assert_eq!((config(20), config(24)), (512, 3 | 8 << 16));
    assert_eq!((config(32), config(36), config(40), config(44)), (1 << 16, 1 << 21, 32, 8));
    assert_eq!((config(48), config(52), config(56)), (1 << 17, 1, 1));
    assert_eq!((config(60), config(72)), (0, 0));
    let offered = machine.guest.offered();
    assert_eq!(offered & 1 << VIRTIO_BLK_F_FLUSH, 1 << VIRTIO_BLK_F_FLUSH);
    assert_eq!(offered & 1 << VIRTIO_BLK_F_RO, 0);
    assert_ne!(Machine::new(",ro").guest.offered() & 1 << VIRTIO_BLK_F_RO, 0);
}

/// What must not make a difference to the guest.
const ENGINES: [&str; 4] = ["", ",engine=threads", ",direct", ",direct,engine=threads"];

#[test]
fn reads_and_writes_go_to_their_sectors() {
    for engine in ENGINES {
        check_transfers(Machine::new(engine));
    }
}

fn check_transfers(mut machine: Machine) {
    // The last piece lies behind the gap of guest memory.
    let pieces = [(DATA, 100, WRITE), (DATA + 100, 412, WRITE), (HIGH_MEMORY, 512, WRITE)];
    assert_eq!(machine.request(IN, 5, &pieces), OK);
    assert_eq!(machine.guest.bytes(DATA, 512), [5; 512]);
    assert_eq!(machine.guest.bytes(HIGH_MEMORY, 512), [6; 512]);

    let mut image = machine.image();
    put_bytes(&machine.guest, DATA, &[0x11; 512]);
    put_bytes(&machine.guest, HIGH_MEMORY, &[0x22; 512]);
    assert_eq!(machine.request(OUT, 62, &[(DATA, 512, 0), (HIGH_MEMORY, 512, 0)]), OK);
    image[62 * SECTOR..63 * SECTOR].fill(0x11);
    image[63 * SECTOR..].fill(0x22);
    assert_eq!(machine.image(), image);
    assert_eq!(machine.request(FLUSH, 0, &[]), OK);

    // Whole pages, which `direct` takes past the cache, and back.
    put_bytes(&machine.guest, DATA, &[0x33; 0x2000]);
    assert_eq!(machine.request(OUT, 16, &[(DATA, 0x1000, 0), (DATA + 0x1000, 0x1000, 0)]), OK);
    image[16 * SECTOR..32 * SECTOR].fill(0x33);
    assert!(machine.image() == image);
    assert_eq!(machine.request(IN, 8, &[(DATA, 0x1000, WRITE)]), OK);
    assert!(machine.guest.bytes(DATA, 0x1000) == image[8 * SECTOR..16 * SECTOR]);
}

#[test]
fn a_header_in_pieces_is_a_header() {
    let mut machine = Machine::new("");
    put_header(&machine.guest, HEADER, IN, 9);
    let buffers = [(HEADER, 3, 0), (HEADER + 3, 13, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)];
    assert_eq!(machine.guest.request(0, &buffers), 513);
    assert_eq!(machine.guest.bytes(DATA, 512), [9; 512]);
    // The status is the last byte, wherever that is.
    assert_eq!(machine.guest.request(0, &[(HEADER, 16, 0), (DATA + 0x1000, 513, WRITE)]), 513);
    assert_eq!(machine.guest.bytes(DATA + 0x1000, 513), [&[9; 512][..], &[OK]].concat());
}

#[test]
fn serial_numbers_are_told() {
    let mut machine = Machine::new(",id=carpel-1");
    put_bytes(&machine.guest, DATA, &[0x55; 32]);
    assert_eq!(machine.request(GET_ID, 0, &[(DATA, 20, WRITE)]), OK);
    assert_eq!(machine.guest.bytes(DATA, 21), b"carpel-1\0\0\0\0\0\0\0\0\0\0\0\0\x55");
    put_bytes(&machine.guest, DATA, &[0x55; 32]);
    assert_eq!(machine.request(GET_ID, 0, &[(DATA, 4, WRITE)]), OK);
    assert_eq!(machine.guest.bytes(DATA, 5), b"carp\x55");
    assert!(serial_number("123456789012345678901").is_err());
    assert!(serial_number("a b").is_err());
    assert!(serial_number("é").is_err());
}

#[test]
fn what_is_not_on_the_disk_is_an_error_and_changes_nothing() {
    let mut machine = Machine::new("");
    let image = machine.image();
    let sectors = [SECTORS, SECTORS - 1, u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, 1 << 63, (1 << 55) - 1];
    for sector in sectors {
        for (kind, flags) in [(IN, WRITE), (OUT, 0)] {
            let status = machine.request(kind, sector, &[(DATA, 1024, flags)]);
            assert_eq!(status, IOERR, "{kind} {sector:#x}");
        }
    }
    for length in [1, 511, 513] {
        assert_eq!(machine.request(IN, 0, &[(DATA, length, WRITE)]), IOERR, "{length}");
        assert_eq!(machine.request(OUT, 0, &[(DATA, length, 0)]), IOERR, "{length}");
    }
    // All of guest memory, many times: more than the disk has.
    assert_eq!(machine.request(OUT, 0, &[(0, MEMORY as u32, 0); 12]), IOERR);
    assert_eq!(machine.image(), image);
    assert_eq!(machine.request(IN, 3, &[(DATA, 512, WRITE)]), OK);
}

#[test]
fn unknown_requests_are_refused() {
    let mut machine = Machine::new("");
    for kind in [2, 3, 5, 9, 10, 14, 15, 0x8000_0000, u32::MAX] {
        assert_eq!(machine.request(kind, 0, &[(DATA, 512, WRITE)]), UNSUPP, "{kind}");
    }
}

#[test]
fn a_read_only_disk_cannot_be_written_to() {
    let mut machine = Machine::new(",ro");
    let image = machine.image();
    assert_eq!(machine.request(OUT, 0, &[(DATA, 512, 0)]), IOERR);
    assert_eq!(machine.request(IN, 7, &[(DATA, 512, WRITE)]), OK);
    assert_eq!(machine.guest.bytes(DATA, 512), [7; 512]);
    assert_eq!(machine.request(FLUSH, 0, &[]), OK);
    assert_eq!(machine.image(), image);
}

#[test]
fn a_request_without_header_or_status_breaks_the_device_until_a_reset() {
    let mut machine = Machine::new("");
    put_header(&machine.guest, HEADER, IN, 0);
    for buffers in [vec![(HEADER, 15, 0, 0)], vec![(HEADER, 16, 0, 0)], vec![(DATA, 512, WRITE, 0)]] {
        for (index, &buffer) in (0_u16..).zip(&buffers) {
            machine.guest.descriptor(0, index, buffer);
        }
        machine.guest.publish(0, 0);
        machine.guest.kick(0);
        machine.guest.wait_needs_reset();
        machine.guest.start();
        assert_eq!(machine.request(IN, 1, &[(DATA, 512, WRITE)]), OK);
    }
}

#[test]
fn an_image_that_shrinks_is_an_error_for_the_guest() {
    for engine in ENGINES {
        check_shrinking(Machine::new(engine));
    }
}

fn check_shrinking(mut machine: Machine) {
    File::options().write(true).open(&machine.path).unwrap().set_len(10 * SECTOR as u64).unwrap();
    for _ in 0..10 {
        assert_eq!(machine.request(IN, 9, &[(DATA, 1024, WRITE)]), IOERR);
    }
    assert_eq!(machine.request(IN, 9, &[(DATA, 512, WRITE)]), OK);
    assert_eq!(machine.guest.bytes(DATA, 512), [9; 512]);
}

#[test]
fn a_reset_amid_requests_leaves_memory_and_disk_alone() {
    check_resets(Machine::new(""));
    check_resets(Machine::new(",engine=threads"));
}

/// As many in all as made another monitor write to a disk after a reset, half with each engine.
const RESETS: u32 = 5000;

fn check_resets(mut machine: Machine) {
    for round in 0..RESETS {
        // Every other request writes its round to its sector, the others read.
        for head in 0..5_u16 {
            let header = HEADER + 0x100 * u64::from(head);
            let (kind, flags) = if head % 2 == 0 { (OUT, 0) } else { (IN, WRITE) };
            put_header(&machine.guest, header, kind, u64::from(head));
            let data = DATA + 0x1000 * u64::from(head);
            put_bytes(&machine.guest, data, &[round as u8; 512]);
            machine.guest.descriptor(0, 3 * head, (header, 16, NEXT, 3 * head + 1));
            machine.guest.descriptor(0, 3 * head + 1, (data, 512, NEXT | flags, 3 * head + 2));
            machine.guest.descriptor(0, 3 * head + 2, (header + 16, 1, WRITE, 0));
            machine.guest.publish(0, 3 * head);
        }
        machine.guest.kick(0);
        for _ in 0..round % 64 {
            std::hint::spin_loop();
        }
        machine.guest.write(r::STATUS, 0);
        let mark = vec![0xEE; 0x6000];
        put_bytes(&machine.guest, BUFFERS, &mark);
        let image = File::options().read(true).write(true).open(&machine.path).unwrap();
        image.write_all_at(&[0xDD; 5 * SECTOR], 0).unwrap();
        if round % 100 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(machine.guest.bytes(BUFFERS, mark.len()) == mark, "memory was written after reset {round}");
        assert!(machine.image()[..5 * SECTOR] == [0xDD; 5 * SECTOR], "the disk was written after reset {round}");
        machine.guest.start();
    }
    assert_eq!(machine.request(IN, 20, &[(DATA, 512, WRITE)]), OK);
}

#[test]
fn a_writer_is_alone_and_readers_share() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("disk.img");
    fs::write(&path, [0; SECTOR]).unwrap();
    let disk = |keys: &str| {
        let text = format!("blk,path={}{keys}", path.display());
        make_from(&text).map_err(|error| error.to_string())
    };
    let writer = disk("").unwrap();
    let in_use = format!("{} is in use by another guest or process", path.display());
    assert_eq!(disk("").err().unwrap(), format!("{in_use} (only `ro` can be shared)"));
    assert_eq!(disk(",ro").err().unwrap(), format!("{in_use} that writes to it"));
    drop(writer);
    let _readers = [disk(",ro").unwrap(), disk(",ro").unwrap()];
    assert!(disk("").is_err());
}

#[test]
fn what_cannot_be_a_disk_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let error = |path: &std::path::Path| {
        let text = format!("blk,path={}", path.display());
        let error = make_from(&text).err().unwrap();
        error.to_string()
    };
    fs::write(path("empty"), "").unwrap();
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(error(&path("missing")), format!("Cannot open {}", path("missing").display()));
    let neither = |name| format!("{} is neither a file nor a block device", path(name).display());
    assert_eq!(error(&path("pipe")), neither("pipe"));
    assert_eq!(error(&path("")), neither(""));
    assert!(error(&path("empty")).contains("has 0 bytes"));
    let none = make_from("blk").err().unwrap().to_string();
    assert_eq!(none, "A disk needs an image: `path=FILE`");
}

/// A storage that notes what is done to it, and what the status of the test's request is then.
#[derive(Clone)]
struct Witness {
    seen: Arc<Mutex<Vec<(&'static str, u8)>>>,
    status: Arc<Mutex<Option<Arc<vm_memory::GuestMemoryMmap>>>>,
}

impl Witness {
    fn note(&self, call: &'static str) {
        use vm_memory::{Bytes as _, GuestAddress};
        let memory = self.status.lock().unwrap().clone().unwrap();
        let status = memory.read_obj(GuestAddress(STATUS)).unwrap();
        self.seen.lock().unwrap().push((call, status));
    }
}

impl Storage for Witness {
    fn size(&self) -> u64 {
        4096
    }

    fn read(&self, _into: &[VolatileSlice<'_>], _offset: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, _from: &[VolatileSlice<'_>], _offset: u64) -> std::io::Result<()> {
        self.note("write");
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        self.note("flush");
        Ok(())
    }

    fn discard(&self, _offset: u64, _length: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn zero(&self, _offset: u64, _length: u64, _unmap: bool) -> std::io::Result<()> {
        self.note("zero");
        Ok(())
    }
}

fn witnessed() -> (Guest, Witness) {
    let witness = Witness { seen: Arc::default(), status: Arc::default() };
    let disk = Disk::new("witness".into(), Arc::new(witness.clone()), false, [0; ID_BYTES]);
    let limits = Limits { bytes: RateLimiter::new(None).unwrap(), operations: RateLimiter::new(None).unwrap() };
    let guest = Guest::new(Box::new(Blk::new(disk, Choice::Threads, vec![limits])));
    *witness.status.lock().unwrap() = Some(Arc::clone(&guest.memory));
    (guest, witness)
}

#[test]
fn a_flush_is_answered_after_it_is_done() {
    let (mut guest, witness) = witnessed();
    guest.start();
    assert_eq!(request(&mut guest, OUT, 0, &[(DATA, 512, 0)]), OK);
    assert_eq!(request(&mut guest, FLUSH, 0, &[]), OK);
    assert_eq!(*witness.seen.lock().unwrap(), [("write", NONE), ("flush", NONE)]);
}

#[test]
fn without_flushes_every_write_is_flushed_before_its_answer() {
    let (mut guest, witness) = witnessed();
    guest.start_with(1 << 32);
    assert_eq!(request(&mut guest, OUT, 0, &[(DATA, 512, 0)]), OK);
    assert_eq!(*witness.seen.lock().unwrap(), [("write", NONE), ("flush", NONE)]);
    let mut machine = Machine::new("");
    machine.guest.start_with(1 << 32);
    assert_eq!(machine.request(OUT, 0, &[(DATA, 512, 0)]), OK);
}

#[test]
fn requests_without_end_are_answered_without_end() {
    let mut machine = Machine::new("");
    let started = Instant::now();
    let mut answered = 0;
    put_header(&machine.guest, HEADER, IN, 1);
    for head in 0..5_u16 {
        machine.guest.descriptor(0, 3 * head, (HEADER, 16, NEXT, 3 * head + 1));
        machine.guest.descriptor(0, 3 * head + 1, (DATA, 512, NEXT | WRITE, 3 * head + 2));
        machine.guest.descriptor(0, 3 * head + 2, (STATUS, 1, WRITE, 0));
        machine.guest.publish(0, 3 * head);
    }
    machine.guest.kick(0);
    while answered < 5000 {
        let (head, _) = machine.guest.wait_used(0);
        machine.guest.publish(0, head as u16);
        machine.guest.kick(0);
        answered += 1;
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

/// A host whose disk stalls: reads wait as long as the test holds the lock.
struct Stalling(Arc<Mutex<()>>);

impl Storage for Stalling {
    fn size(&self) -> u64 {
        4096
    }

    fn read(&self, _into: &[VolatileSlice<'_>], _offset: u64) -> std::io::Result<()> {
        drop(self.0.lock().unwrap());
        Ok(())
    }

    fn write(&self, _from: &[VolatileSlice<'_>], _offset: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn discard(&self, _offset: u64, _length: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn zero(&self, _offset: u64, _length: u64, _unmap: bool) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stalled_disk_holds_up_neither_registers_nor_other_queues() {
    let lock = Arc::new(Mutex::new(()));
    let disk = Disk::new("stalling".into(), Arc::new(Stalling(Arc::clone(&lock))), false, [0; ID_BYTES]);
    let limits = || Limits { bytes: RateLimiter::new(None).unwrap(), operations: RateLimiter::new(None).unwrap() };
    let mut guest = Guest::new(Box::new(Blk::new(disk, Choice::Threads, vec![limits(), limits()])));
    guest.start();
    let stalled = lock.lock().unwrap();
    put_header(&guest, HEADER, IN, 0);
    // More requests than the queue has threads.
    for head in 0..5_u16 {
        guest.descriptor(0, 3 * head, (HEADER, 16, NEXT, 3 * head + 1));
        guest.descriptor(0, 3 * head + 1, (DATA, 512, NEXT | WRITE, 3 * head + 2));
        guest.descriptor(0, 3 * head + 2, (STATUS, 1, WRITE, 0));
        guest.publish(0, 3 * head);
    }
    let (header, status) = (HEADER + 0x100, STATUS + 0x100);
    put_header(&guest, header, OUT, 0);
    for _ in 0..100 {
        let started = Instant::now();
        guest.kick(0);
        assert_eq!(guest.read(r::CONFIG), 8);
        assert_eq!(guest.request(1, &[(header, 16, 0), (DATA, 512, 0), (status, 1, WRITE)]), 1);
        assert!(started.elapsed().as_secs() < 1, "{:?}", started.elapsed());
    }
    assert_eq!(guest.poll_used(0), None);
    drop(stalled);
    for _ in 0..5 {
        guest.wait_used(0);
    }
}

/// Segments for discarding and zeroing: sector, sectors, flags.
fn put_segments(guest: &Guest, segments: &[(u64, u32, u32)]) -> (u64, u32, u16) {
    let record = |&(sector, sectors, flags): &(u64, u32, u32)| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    let bytes: Vec<u8> = segments.iter().flat_map(record).collect();
    put_bytes(guest, DATA, &bytes);
    (DATA, bytes.len() as u32, 0)
}

#[test]
fn discarded_and_zeroed_sectors_are_zeros_and_no_others_are() {
    use std::os::unix::fs::MetadataExt as _;
    let mut machine = Machine::new("");
    let mut image = machine.image();
    let blocks = |machine: &Machine| fs::metadata(&machine.path).unwrap().blocks();
    let before = blocks(&machine);
    let data = put_segments(&machine.guest, &[(8, 8, 0), (24, 16, 0)]);
    assert_eq!(machine.request(DISCARD, 0, &[data]), OK);
    image[8 * SECTOR..16 * SECTOR].fill(0);
    image[24 * SECTOR..40 * SECTOR].fill(0);
    assert!(machine.image() == image);
    assert!(blocks(&machine) < before, "the host has its space back");

    for (sector, flags) in [(0, 0), (3, 1), (41, 0), (48, 1)] {
        let data = put_segments(&machine.guest, &[(sector, 2, flags)]);
        assert_eq!(machine.request(WRITE_ZEROES, 0, &[data]), OK);
        image[sector as usize * SECTOR..][..2 * SECTOR].fill(0);
        assert!(machine.image() == image, "{sector}");
    }
    let nothing = put_segments(&machine.guest, &[(63, 0, 0)]);
    assert_eq!(machine.request(DISCARD, 0, &[nothing]), OK);
    assert_eq!(machine.request(WRITE_ZEROES, 0, &[nothing]), OK);
    assert!(machine.image() == image);
}

#[test]
fn segments_that_are_too_many_too_large_or_not_on_the_disk_are_refused_at_once() {
    let mut machine = Machine::new("");
    let image = machine.image();
    let started = Instant::now();
    for kind in [DISCARD, WRITE_ZEROES] {
        for segment in
            [(63, 2, 0), (64, 1, 0), (u64::MAX, 1, 0), (u64::MAX, u32::MAX, 0), (0, u32::MAX, 0), (1 << 55, 1, 0)]
        {
            let data = put_segments(&machine.guest, &[segment]);
            assert_eq!(machine.request(kind, 0, &[data]), IOERR, "{kind} {segment:?}");
        }
        // One that could be done does not make up for one that cannot.
        let data = put_segments(&machine.guest, &[(0, 1, 0), (64, 1, 0)]);
        assert_eq!(machine.request(kind, 0, &[data]), IOERR);
        for flags in [2, 3, 1 << 31] {
            let data = put_segments(&machine.guest, &[(0, 1, flags)]);
            assert_eq!(machine.request(kind, 0, &[data]), UNSUPP, "{kind} {flags}");
        }
        assert_eq!(machine.request(kind, 0, &[(DATA, 15, 0)]), IOERR);
        assert_eq!(machine.request(kind, 0, &[]), IOERR);
        // A million segments: the same memory again and again.
        assert_eq!(machine.request(kind, 0, &[(0, MEMORY as u32, 0); 14]), IOERR);
    }
    let data = put_segments(&machine.guest, &[(0, 1, 1)]);
    assert_eq!(machine.request(DISCARD, 0, &[data]), UNSUPP);
    assert!(started.elapsed().as_millis() < 1000, "{:?}", started.elapsed());
    assert!(machine.image() == image);

    let mut machine = Machine::new(",ro");
    assert_eq!(machine.guest.offered() & WRITABLE_FEATURES, 0);
    let data = put_segments(&machine.guest, &[(0, 1, 0)]);
    assert_eq!(machine.request(DISCARD, 0, &[data]), IOERR);
    assert_eq!(machine.request(WRITE_ZEROES, 0, &[data]), IOERR);
}

#[test]
fn a_storage_that_cannot_discard_says_so() {
    let (mut guest, witness) = witnessed();
    guest.start();
    let data = put_segments(&guest, &[(0, 1, 0)]);
    assert_eq!(request(&mut guest, DISCARD, 0, &[data]), UNSUPP);
    assert_eq!(request(&mut guest, WRITE_ZEROES, 0, &[data]), OK);
    assert_eq!(*witness.seen.lock().unwrap(), [("zero", NONE)]);
}

#[test]
fn each_queue_is_served() {
    let mut machine = Machine::new(",queues=4");
    assert_eq!(machine.guest.offered() & 1 << VIRTIO_BLK_F_MQ, 1 << VIRTIO_BLK_F_MQ);
    assert_eq!(machine.guest.read(r::CONFIG + 32) >> 16, 4);
    for queue in (0..4).rev() {
        put_header(&machine.guest, HEADER, IN, 10 + queue as u64);
        assert_eq!(machine.guest.request(queue, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]), 513);
        assert_eq!(machine.guest.bytes(DATA, 512), [10 + queue as u8; 512]);
    }
    let error = make_from("blk,path=x,queues=17").err().unwrap().to_string();
    assert_eq!(error, "A disk has up to 16 queues, not 17");
}

#[test]
fn rates_hold_it_back() {
    for (keys, requests) in [(",rate=40K", 20), (",ops=40", 12)] {
        let mut machine = Machine::new(keys);
        let started = Instant::now();
        for _ in 0..requests {
            assert_eq!(machine.request(IN, 0, &[(DATA, 1024, WRITE)]), OK);
        }
        // 20 KiB, or 12 requests, less the burst of a tenth of a second and what is on credit at the end.
        assert!(started.elapsed().as_millis() >= 170, "{keys}: {:?}", started.elapsed());
        assert!(started.elapsed().as_millis() < 5000, "{keys}: {:?}", started.elapsed());
    }
}
