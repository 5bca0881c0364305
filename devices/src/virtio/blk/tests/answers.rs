//! What a driver is told of its requests, and what limits them: each type of request, with each status.

use super::*;

/// Sends a request whose answer has `room` bytes before its status; returns the status and how many bytes count as written,
/// which must have been.
fn answer(machine: &mut Machine, kind: u32, sector: u64, data: &[(u64, u32, u16)], room: u32) -> (u8, u32) {
    let buffers = |machine: &Machine| {
        put_header(&machine.guest, HEADER, kind, sector);
        let mut buffers = vec![(HEADER, 16, 0)];
        buffers.extend(data);
        // In two pieces, so that a boundary between them counts for nothing.
        let (first, second) = (room / 3, room + 1 - room / 3);
        let pieces = [(HIGH_MEMORY, first, WRITE), (HIGH_MEMORY + u64::from(first), second, WRITE)];
        buffers.extend(pieces.iter().filter(|piece| piece.1 > 0));
        buffers
    };
    let mut lengths = [0; 2];
    let mut bytes = [Vec::new(), Vec::new()];
    for (round, mark) in [0xAA, 0x55].into_iter().enumerate() {
        put_bytes(&machine.guest, HIGH_MEMORY, &vec![mark; room as usize + 1]);
        let buffers = buffers(machine);
        lengths[round] = machine.guest.request(0, &buffers);
        bytes[round] = machine.guest.bytes(HIGH_MEMORY, room as usize + 1);
    }
    let [first, second] = bytes;
    assert_eq!(lengths[0], lengths[1]);
    let written = lengths[0] as usize;
    // A byte that nobody wrote is what was there before.
    assert!(first[..written] == second[..written], "request {kind} says that it wrote {written} bytes of {}", room + 1);
    (first[room as usize], lengths[0])
}

#[test]
fn no_more_bytes_count_as_written_than_were() {
    for engine in ENGINES.into_iter().chain([",ephemeral", ",ro"]) {
        let mut machine = Machine::new(&format!("{engine},id=serial"));
        let writable = if engine == ",ro" { IOERR } else { OK };
        let mut check = |kind, sector, data: &[_], room, expected| {
            assert_eq!(answer(&mut machine, kind, sector, data, room), expected, "{engine} {kind} {sector} {room}");
        };
        check(IN, 3, &[], 1024, (OK, 1025));
        check(IN, 3, &[], 0, (OK, 1));
        check(IN, SECTORS, &[], 512, (IOERR, 0));
        check(IN, 0, &[], 100, (IOERR, 0));
        check(GET_ID, 0, &[], 20, (OK, 21));
        check(GET_ID, 0, &[], 7, (OK, 8));
        check(GET_ID, 0, &[], 0, (OK, 1));
        check(GET_ID, 0, &[], 512, (OK, 20));
        for room in [0, 512] {
            let nothing = u32::from(room == 0);
            check(FLUSH, 0, &[], room, (OK, nothing));
            check(OUT, 5, &[(DATA, 512, 0)], room, (writable, nothing));
            check(OUT, SECTORS, &[(DATA, 512, 0)], room, (IOERR, nothing));
            check(77, 0, &[], room, (UNSUPP, nothing));
            check(DISCARD, 0, &[], room, (IOERR, nothing));
            check(WRITE_ZEROES, 0, &[], room, (IOERR, nothing));
        }
        let segment = put_segments(&machine.guest, &[(8, 1, 0)]);
        for (kind, room) in [(DISCARD, 0), (DISCARD, 9), (WRITE_ZEROES, 0), (WRITE_ZEROES, 9)] {
            assert_eq!(answer(&mut machine, kind, 0, &[segment], room), (writable, u32::from(room == 0)), "{engine}");
        }
    }
}

/// The host read some of it, or none.
#[test]
fn what_an_error_left_does_not_count_as_written() {
    for engine in ENGINES {
        let mut machine = Machine::new(engine);
        File::options().write(true).open(&machine.path).unwrap().set_len(10 * SECTOR as u64).unwrap();
        for sector in [9, 10, 12] {
            assert_eq!(answer(&mut machine, IN, sector, &[], 1024), (IOERR, 0), "{engine}");
        }
    }
}

/// Time for so many of these requests, at a rate that would take a tenth of a second for four of them, with four on credit.
fn time(keys: &str, kind: u32, data: impl Fn(&Guest) -> Vec<(u64, u32, u16)>, requests: u32) -> u128 {
    let mut machine = Machine::new(keys);
    let started = Instant::now();
    for _ in 0..requests {
        let data = data(&machine.guest);
        machine.request(kind, 0, &data);
    }
    started.elapsed().as_millis()
}

#[test]
fn no_request_escapes_the_limits() {
    let payload = |kind| {
        move |guest: &Guest| match kind {
            IN => vec![(DATA, 1024, WRITE)],
            OUT => vec![(DATA, 1024, 0)],
            DISCARD => vec![put_segments(guest, &[(0, 2, 0); 16])],
            WRITE_ZEROES => vec![put_segments(guest, &[(0, 2, 1)])],
            _ => vec![],
        }
    };
    for kind in [IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 77] {
        let time = time(",ops=40", kind, payload(kind), 12);
        assert!((170..5000).contains(&time), "12 requests of type {kind}, of 40 a second: {time} ms");
    }
    for kind in [IN, OUT, WRITE_ZEROES] {
        let time = time(",rate=40K", kind, payload(kind), 20);
        assert!((170..5000).contains(&time), "20 KiB by type {kind}, of 40 KiB a second: {time} ms");
    }
    // It moves no bytes: 16 KiB each time.
    let time = time(",rate=40K", DISCARD, payload(DISCARD), 20);
    assert!(time < 150, "{time} ms");
}

#[test]
fn blocks_of_4096_bytes_are_told_and_requests_are_for_whole_ones() {
    let mut machine = Machine::new(",block-size=4096");
    let mut config = |offset| machine.guest.read(r::CONFIG + offset);
    // Sectors are of 512 bytes whatever the block size (section 5.2.4).
    assert_eq!((config(0), config(20), config(24)), (SECTORS as u32, 4096, 1 << 16));
    assert_eq!(config(44), 8);
    let image = machine.image();
    for (sector, length) in [(0, 512), (0, 4608), (1, 4096), (7, 4096), (4, 2048)] {
        assert_eq!(machine.request(IN, sector, &[(DATA, length, WRITE)]), IOERR, "{sector} {length}");
        assert_eq!(machine.request(OUT, sector, &[(DATA, length, 0)]), IOERR, "{sector} {length}");
        let segment = put_segments(&machine.guest, &[(sector, length / 512, 0)]);
        assert_eq!(machine.request(DISCARD, 0, &[segment]), IOERR, "{sector} {length}");
        assert_eq!(machine.request(WRITE_ZEROES, 0, &[segment]), IOERR, "{sector} {length}");
    }
    assert!(machine.image() == image);
    // Buffers need no alignment.
    assert_eq!(machine.request(IN, 8, &[(DATA + 1, 100, WRITE), (DATA + 0x200, 3996, WRITE)]), OK);
    assert_eq!(machine.guest.bytes(DATA + 1, 100), image[4096..4196]);
    put_bytes(&machine.guest, DATA, &[0x44; 4096]);
    assert_eq!(machine.request(OUT, SECTORS - 8, &[(DATA, 4096, 0)]), OK);
    assert!(machine.image()[(SECTORS as usize - 8) * SECTOR..].iter().all(|&byte| byte == 0x44));
    let segment = put_segments(&machine.guest, &[(16, 8, 0)]);
    assert_eq!(machine.request(WRITE_ZEROES, 0, &[segment]), OK);
    assert!(machine.image()[16 * SECTOR..24 * SECTOR].iter().all(|&byte| byte == 0));
}

#[test]
fn images_without_whole_blocks_and_other_block_sizes_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("disk.img");
    fs::write(&path, vec![0; 4096 + 512]).unwrap();
    let disk = |keys: &str| {
        let text = format!("blk,path={}{keys}", path.display());
        make_from(&text).map(drop).map_err(|error| error.to_string())
    };
    let path = path.display();
    let error = format!("{path} has 4608 bytes, no multiple of `block-size=4096` (`block-size=512` takes it)");
    assert_eq!(disk(",block-size=4096").unwrap_err(), error);
    assert_eq!(disk(",block-size=4K,ephemeral").unwrap_err(), error);
    assert_eq!(disk(",block-size=512"), Ok(()));
    assert_eq!(disk(",block-size=1024").unwrap_err(), "A disk has blocks of 512 or 4096 bytes, not 1024");
}
