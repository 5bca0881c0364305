use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use nix::fcntl::{FcntlArg, fcntl};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion as _};

use super::*;

const RANGES: [Range<u64>; 2] = [0..4 << 20, 1 << 32..(1 << 32) + 0x3000];

fn check_ram(ram: &GuestRam) {
    for address in [0, (4 << 20) - 8, 1 << 32, (1 << 32) + 0x2FF8] {
        assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(address)).unwrap(), 0);
        ram.memory().write_obj(7_u64, GuestAddress(address)).unwrap();
        assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(address)).unwrap(), 7);
    }
    assert!(ram.memory().write_obj(7_u64, GuestAddress(4 << 20)).is_err());
    for start in [0, 1 << 32] {
        let host = ram.memory().get_host_address(GuestAddress(start)).unwrap();
        assert_eq!(host.align_offset(HUGE_PAGE), 0);
    }
}

#[test]
fn ram_is_zero_writable_and_aligned_for_huge_pages() {
    for small_start in [false, true] {
        for backing in [Backing::Anonymous { small_start }, Backing::Memfd { small_start }] {
            check_ram(&GuestRam::new(&RANGES, backing).unwrap());
        }
    }
}

#[test]
fn a_memfd_holds_the_ranges_one_after_the_other_and_keeps_its_size() {
    let ram = GuestRam::new(&RANGES, Backing::Memfd { small_start: true }).unwrap();
    assert_eq!(ram.backing(), RamBacking::Memfd);
    let files: Vec<_> = ram.memory().iter().map(|region| region.file_offset().unwrap()).collect();
    assert_eq!((files[0].start(), files[1].start()), (0, 4 << 20));
    let file = files[0].file();
    assert_eq!(file.metadata().unwrap().len(), (4 << 20) + 0x3000);
    assert_eq!(file.metadata().unwrap().blocks(), 0, "nothing is taken before it is touched");
    // Who has the descriptor sees the guest's memory, and the guest what is written there.
    ram.memory().write_obj(1_u64, GuestAddress(1 << 32)).unwrap();
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 4 << 20).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), 1);
    file.write_all_at(&2_u64.to_le_bytes(), 8).unwrap();
    assert_eq!(ram.memory().read_obj::<u64>(GuestAddress(8)).unwrap(), 2);
    for size in [0, 5 << 20] {
        assert!(file.set_len(size).is_err(), "{size}");
    }
    assert!(fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
    let flags = fcntl(file, FcntlArg::F_GETFD).unwrap();
    assert_ne!(flags & libc::FD_CLOEXEC, 0, "{}", file.as_raw_fd());
}

fn file_of(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

#[test]
fn what_a_guest_writes_goes_to_a_shared_file_and_to_no_private_one() {
    let mut bytes = vec![0x11; 0x1000];
    bytes.extend(vec![0x22; 0x2000]);
    for shared in [true, false] {
        let file = file_of(&bytes);
        let ranges = [0x10_0000..0x10_1000, 0x20_0000..0x20_1000];
        let ram = GuestRam::new(&ranges, Backing::File { file: &file, offset: 0x1000, shared }).unwrap();
        assert_eq!(ram.backing(), RamBacking::File);
        for address in [0x10_0000, 0x20_0FFC] {
            assert_eq!(ram.memory().read_obj::<u32>(GuestAddress(address)).unwrap(), 0x2222_2222);
            ram.memory().write_obj(0x3333_3333_u32, GuestAddress(address)).unwrap();
            assert_eq!(ram.memory().read_obj::<u32>(GuestAddress(address)).unwrap(), 0x3333_3333);
        }
        drop(ram);
        let expected = if shared { 0x33 } else { 0x22 };
        let mut after = vec![0; 0x3000];
        file.read_exact_at(&mut after, 0).unwrap();
        assert_eq!([after[0], after[0x1000], after[0x2FFF]], [0x11, expected, expected]);
    }
}

#[test]
fn a_file_that_can_only_be_read_is_ram_of_the_guests_own() {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), vec![0x11; 0x1000]).unwrap();
    let file = File::open(path.path()).unwrap();
    let backing = |shared| Backing::File { file: &file, offset: 0, shared };
    let ram = GuestRam::new(std::slice::from_ref(&(0..0x1000)), backing(false)).unwrap();
    ram.memory().write_obj(7_u8, GuestAddress(0)).unwrap();
    let error = GuestRam::new(std::slice::from_ref(&(0..0x1000)), backing(true)).unwrap_err();
    assert!(matches!(error, MemoryError::Map { source: Errno::EACCES, .. }), "{error:?}");
}

#[test]
fn a_file_that_ends_too_early_is_refused() {
    let file = file_of(&[0; 0x3000]);
    for offset in [0x2000, u64::MAX] {
        let backing = Backing::File { file: &file, offset, shared: false };
        let error = GuestRam::new(&[0..0x1000, 0x1000..0x2000], backing).unwrap_err();
        assert!(matches!(error, MemoryError::ShortFile { size: 0x3000, .. }), "{error:?}");
    }
}

#[test]
fn more_than_the_host_has_is_one_error() {
    let huge = std::slice::from_ref(&(0..1 << 47));
    for backing in [Backing::default(), Backing::Memfd { small_start: false }] {
        let error = GuestRam::new(huge, backing).unwrap_err();
        assert_eq!(error.to_string(), "Cannot map 140737488355328 bytes of guest memory");
        assert!(!error.is_of_configuration());
    }
}

/// Address space in use, in pages.
fn address_space() -> u64 {
    let mut text = String::new();
    File::open("/proc/self/statm").unwrap().read_to_string(&mut text).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn huge_pages_that_the_pool_does_not_have_are_told_before_anything_is_touched() {
    let Some(pool) = Pool::read() else { panic!("This test needs a kernel with huge pages") };
    let few = pool.page..2 * pool.page;
    let many = 1 << 40..(1 << 40) + (pool.page << 20);
    for shared in [false, true] {
        let before = address_space();
        let error = GuestRam::new(&[few.clone(), many.clone()], Backing::HugePages { shared }).unwrap_err();
        assert!(error.is_of_configuration());
        let text = error.to_string();
        let start =
            format!("Guest memory needs {} huge pages of {} KiB, and this host has ", (1 << 20) + 1, pool.page >> 10);
        assert!(text.starts_with(&start), "{text}");
        assert!(text.ends_with(" > /proc/sys/vm/nr_hugepages` as root, or drop --hugepages"), "{text}");
        assert!(address_space() < before + (pool.page << 20) / 4096, "nothing stays mapped");
    }
}

#[test]
fn ranges_that_are_not_made_of_huge_pages_are_refused() {
    let Some(pool) = Pool::read() else { panic!("This test needs a kernel with huge pages") };
    let end = 2 * pool.page + 4096;
    let error = GuestRam::new(std::slice::from_ref(&(0..end)), Backing::HugePages { shared: false }).unwrap_err();
    let expected = format!(
        "Guest memory at 0x0-{end:#x} is not made of huge pages of {} bytes: choose another --mem or --layout, or drop \
         --hugepages",
        pool.page
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.is_of_configuration());
}
