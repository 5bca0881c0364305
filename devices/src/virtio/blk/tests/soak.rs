//! A qcow2 image under requests at random, of several queues at a time: it holds what it should, and is a sound image afterwards.

use std::collections::BTreeMap;
use std::ops::Range;

use super::images::create_qcow2;
use super::*;

/// Bytes of the disk: 256 of the format's clusters.
const SIZE: u64 = 16 << 20;
const CLUSTER: u64 = 64 << 10;
/// Queues, each with one request of a round.
const QUEUES: usize = 4;
/// How often the image is opened, and the rounds of requests meanwhile.
const SESSIONS: u32 = 4;
const ROUNDS: u32 = 500;
/// The most sectors of a read or write, for which each queue has a place in memory, and of a request without data.
const TRANSFER: u64 = CLUSTER / SECTOR as u64;
const RANGE: u64 = 4 * TRANSFER;

#[test]
fn a_qcow2_image_stays_sound_under_requests_of_several_queues() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("disk.qcow2");
    create_qcow2(&path, SIZE, None);
    let mut soak = Soak { random: Random(0x5EED), shadow: vec![Some(0); SIZE as usize / SECTOR], stamp: 0 };
    let mut place = (scratch, path);
    for _ in 0..SESSIONS {
        let mut machine = Machine::with_image(place.0, place.1, &format!(",format=qcow2,queues={QUEUES}"));
        for _ in 0..ROUNDS {
            soak.round(&mut machine.guest);
        }
        soak.read_all(&mut machine.guest);
        assert_eq!(machine.request(FLUSH, 0, &[]), OK);
        let Machine { guest, path, scratch } = machine;
        drop(guest);
        assert_eq!(faults(&fs::read(&path).unwrap()), [""; 0]);
        place = (scratch, path);
    }
    let mut machine = Machine::with_image(place.0, place.1, &format!(",format=qcow2,ro,queues={QUEUES}"));
    soak.read_all(&mut machine.guest);

    // What is found to be sound can also be found not to be.
    let mut image = machine.image();
    let counts = number(&image, number(&image, 48, 8), 8) as usize;
    image[counts + 1] += 1;
    assert_eq!(faults(&image), ["Cluster 0 is in use 1 times and counted 2 times"]);
}

/// Both parts of a cluster that there was not yet are written to at once.
#[test]
fn data_and_zeros_that_come_to_a_new_cluster_at_once_are_both_kept() {
    for _ in 0..4 {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("disk.qcow2");
        create_qcow2(&path, SIZE, None);
        let mut soak = Soak { random: Random(1), shadow: vec![Some(0); SIZE as usize / SECTOR], stamp: 0 };
        let mut machine = Machine::with_image(scratch, path, ",format=qcow2,queues=4");
        for start in (0..SIZE / SECTOR as u64).step_by(TRANSFER as usize) {
            let data = Job { kind: OUT, sectors: start..start + 40, flags: 0, stamp: (start + 1) << 16 };
            let zeros = Job { kind: WRITE_ZEROES, sectors: start + 60..start + TRANSFER, flags: 0, stamp: 0 };
            soak.perform(&mut machine.guest, &[data, zeros]);
        }
        soak.read_all(&mut machine.guest);
    }
}

/// Numbers that are the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A request, by its type, and for those that write, what each sector is filled with from now on.
struct Job {
    kind: u32,
    sectors: Range<u64>,
    flags: u32,
    stamp: u64,
}

struct Soak {
    random: Random,
    /// What fills each sector; none if it was discarded and may hold anything.
    shadow: Vec<Option<u64>>,
    stamp: u64,
}

impl Soak {
    /// Has each queue do something at the same time, to sectors of its own.
    fn round(&mut self, guest: &mut Guest) {
        let mut jobs: Vec<Job> = Vec::new();
        while jobs.len() < QUEUES {
            let job = self.job();
            if jobs.iter().all(|other| other.sectors.end <= job.sectors.start || job.sectors.end <= other.sectors.start)
            {
                jobs.push(job);
            }
        }
        self.perform(guest, &jobs);
    }

    fn job(&mut self) -> Job {
        self.stamp += 1;
        let (kind, flags, longest) = match self.random.below(20) {
            0..8 => (OUT, 0, TRANSFER),
            8..13 => (IN, 0, TRANSFER),
            13..17 => (DISCARD, 0, RANGE),
            kind => (WRITE_ZEROES, (kind % 2) as u32, RANGE),
        };
        let length = 1 + self.random.below(longest);
        let start = self.random.below(SIZE / SECTOR as u64 - length + 1);
        let sectors = match self.random.below(3) {
            // Clusters are given back as a whole.
            0 => start / TRANSFER * TRANSFER..(start + length).div_ceil(TRANSFER) * TRANSFER,
            _ => start..start + length,
        };
        let sectors = if matches!(kind, IN | OUT) { start..start + length } else { sectors };
        Job { kind, sectors, flags, stamp: self.stamp << 16 }
    }

    fn perform(&mut self, guest: &mut Guest, jobs: &[Job]) {
        for (queue, job) in jobs.iter().enumerate() {
            submit(guest, queue, job);
        }
        for queue in 0..jobs.len() {
            guest.kick(queue);
        }
        for (queue, job) in jobs.iter().enumerate() {
            guest.wait_used(queue);
            assert_eq!(guest.bytes(header_of(queue) + 16, 1), [OK], "{} {:?}", job.kind, job.sectors);
            self.note(guest, queue, job);
        }
    }

    /// Compares what was read, or takes note of what was changed.
    fn note(&mut self, guest: &Guest, queue: usize, job: &Job) {
        let range = job.sectors.start as usize..job.sectors.end as usize;
        match job.kind {
            IN => {
                let bytes = guest.bytes(data_of(queue), range.len() * SECTOR);
                for (sector, bytes) in range.zip(bytes.chunks(SECTOR)) {
                    assert!(self.shadow[sector].is_none_or(|stamp| bytes == filled(stamp)), "sector {sector}");
                }
            }
            OUT => range.for_each(|sector| self.shadow[sector] = Some(job.stamp + sector as u64)),
            DISCARD => self.shadow[range].fill(None),
            _ => self.shadow[range].fill(Some(0)),
        }
    }

    fn read_all(&mut self, guest: &mut Guest) {
        for start in (0..SIZE / SECTOR as u64).step_by(TRANSFER as usize) {
            self.perform(guest, &[Job { kind: IN, sectors: start..start + TRANSFER, flags: 0, stamp: 0 }]);
        }
    }
}

fn header_of(queue: usize) -> u64 {
    HEADER + 0x100 * queue as u64
}

fn data_of(queue: usize) -> u64 {
    HIGH_MEMORY + CLUSTER * queue as u64
}

fn filled(stamp: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(SECTOR / 8)
}

/// Makes the request available, without a notification.
fn submit(guest: &mut Guest, queue: usize, job: &Job) {
    let (header, data) = (header_of(queue), data_of(queue));
    let length = job.sectors.end - job.sectors.start;
    put_header(guest, header, job.kind, if matches!(job.kind, IN | OUT) { job.sectors.start } else { 0 });
    put_bytes(guest, header + 16, &[NONE]);
    let (bytes, flags) = match job.kind {
        IN => ((length as usize) * SECTOR, WRITE),
        OUT => {
            let bytes: Vec<u8> = job.sectors.clone().flat_map(|sector| filled(job.stamp + sector)).collect();
            put_bytes(guest, data, &bytes);
            (bytes.len(), 0)
        }
        _ => {
            let segment = [job.sectors.start.to_le_bytes(), (length | u64::from(job.flags) << 32).to_le_bytes()];
            put_bytes(guest, data, &segment.concat());
            (16, 0)
        }
    };
    guest.descriptor(queue, 0, (header, 16, NEXT, 1));
    guest.descriptor(queue, 1, (data, bytes as u32, NEXT | flags, 2));
    guest.descriptor(queue, 2, (header + 16, 1, WRITE, 0));
    guest.publish(queue, 0);
}

/// A big-endian number at this offset of an image.
fn number(image: &[u8], at: u64, bytes: usize) -> u64 {
    image[at as usize..][..bytes].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// What is wrong with a qcow2 image (docs/interop/qcow2.rst of QEMU): clusters that are in use more or less often than they are counted, which is
/// also what is lost, and mappings that do not say whether they are their cluster's only one.
fn faults(image: &[u8]) -> Vec<String> {
    /// The bits of an entry that are an offset; of those of the reference count table, some are always zero.
    const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
    const COPIED: u64 = 1 << 63;
    const COMPRESSED: u64 = 1 << 62;
    let mut faults = Vec::new();
    let mut used: BTreeMap<u64, u64> = BTreeMap::from([(0, 1)]);
    let mut counted: BTreeMap<u64, u64> = BTreeMap::new();
    let mut entries = Vec::new();
    let table = |at: u64, count: u64| (0..count).map(move |index| number(image, at + 8 * index, 8));
    assert_eq!((number(image, 0, 4), 1 << number(image, 20, 4)), (0x5146_49FB, CLUSTER));
    assert_eq!((number(image, 72, 8), number(image, 96, 4)), (0, 4), "features, and bits of a count as a power of 2");

    let (l1, l1_entries) = (number(image, 40, 8), number(image, 36, 4));
    let (table_of_counts, clusters_of_counts) = (number(image, 48, 8), number(image, 56, 4));
    let whole = |start: u64, bytes: u64| start / CLUSTER..(start + bytes).div_ceil(CLUSTER);
    for cluster in whole(l1, 8 * l1_entries).chain(whole(table_of_counts, clusters_of_counts * CLUSTER)) {
        *used.entry(cluster).or_default() += 1;
    }
    for l2 in table(l1, l1_entries).filter(|entry| entry & OFFSET != 0) {
        entries.push(l2);
        entries.extend(table(l2 & OFFSET, CLUSTER / 8).filter(|entry| entry & OFFSET != 0));
    }
    for &entry in &entries {
        assert_eq!(entry & COMPRESSED, 0);
        *used.entry((entry & OFFSET) / CLUSTER).or_default() += 1;
    }
    for (index, block) in (0..).zip(table(table_of_counts, clusters_of_counts * CLUSTER / 8)) {
        if block & OFFSET == 0 {
            continue;
        }
        *used.entry((block & OFFSET) / CLUSTER).or_default() += 1;
        let counts = (0..CLUSTER / 2).map(|at| (index * CLUSTER / 2 + at, number(image, (block & OFFSET) + 2 * at, 2)));
        counted.extend(counts.filter(|(_, count)| *count != 0));
    }
    for entry in entries {
        let count = counted.get(&((entry & OFFSET) / CLUSTER)).copied().unwrap_or_default();
        if (entry & COPIED != 0) != (count == 1) {
            faults.push(format!("The entry {entry:#x} is of a cluster that is counted {count} times"));
        }
    }
    let clusters: std::collections::BTreeSet<_> = used.keys().chain(counted.keys()).copied().collect();
    for cluster in clusters {
        let [used, counted] = [&used, &counted].map(|map| map.get(&cluster).copied().unwrap_or_default());
        if used != counted {
            faults.push(format!("Cluster {cluster} is in use {used} times and counted {counted} times"));
        }
    }
    faults
}
