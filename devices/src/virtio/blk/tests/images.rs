//! What a disk's image may be besides raw and kept.

use std::path::Path;

use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder as _, Storage as _, StorageCreateOptions};

use super::*;

#[test]
fn an_ephemeral_disk_is_written_and_its_image_is_not() {
    let mut machine = Machine::new(",ephemeral");
    let image = machine.image();
    assert_eq!(machine.guest.offered() & 1 << VIRTIO_BLK_F_RO, 0);
    put_bytes(&machine.guest, DATA, &[0x77; 512]);
    assert_eq!(machine.request(OUT, 5, &[(DATA, 512, 0)]), OK);
    assert_eq!(machine.request(FLUSH, 0, &[]), OK);
    assert_eq!(machine.request(IN, 4, &[(DATA, 1536, WRITE)]), OK);
    assert_eq!(machine.guest.bytes(DATA, 1536), [[4; 512], [0x77; 512], [6; 512]].concat());
    assert!(machine.image() == image);
    // Others may read the image meanwhile.
    let text = format!("blk,path={},ephemeral", machine.path.display());
    assert!(make_from(&text).is_ok());
}

/// A raw image stays one, whatever the guest writes.
#[test]
fn a_forged_qcow2_header_is_data() {
    let mut machine = Machine::new("");
    let mut header = [0_u8; 512];
    header[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    header[8..32].copy_from_slice(&[0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 11, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0x10, 0, 0]);
    header[256..267].copy_from_slice(b"/etc/passwd");
    put_bytes(&machine.guest, DATA, &header);
    assert_eq!(machine.request(OUT, 0, &[(DATA, 512, 0)]), OK);
    let Machine { guest, path, scratch } = machine;
    drop(guest);
    let mut machine = Machine::with_image(scratch, path, "");
    assert_eq!(machine.guest.read(r::CONFIG), SECTORS as u32);
    assert_eq!(machine.request(IN, 0, &[(DATA + 0x1000, 512, WRITE)]), OK);
    assert_eq!(machine.guest.bytes(DATA + 0x1000, 512), header);
}

/// Makes a qcow2 image of so many bytes, by the name of its backing file and that one's format.
pub(super) fn create_qcow2(path: &Path, size: u64, backing: Option<(&str, &str)>) {
    let file = imago::file::File::create_open(StorageCreateOptions::new().filename(path)).unwrap();
    let mut builder = Qcow2::<imago::file::File>::create_builder(file).size(size);
    if let Some((name, format)) = backing {
        builder = builder.backing(name.to_owned(), format.to_owned());
    }
    builder.create().unwrap();
}

#[test]
fn a_qcow2_image_that_is_not_whole_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("disk.qcow2");
    create_qcow2(&path, 1 << 30, None);
    let text = format!("blk,path={},format=qcow2", path.display());
    let refusal = || match make_from(&text) {
        Ok(_) => String::new(),
        Err(error) => error.source().unwrap().to_string(),
    };
    assert_eq!(refusal(), "");
    let whole = fs::read(&path).unwrap();
    let long = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap()) as usize;
    let (first_level, refcounts) = (long(40), long(48));

    for (cut, table) in [(first_level, "first-level table"), (refcounts + 8, "refcount table")] {
        fs::write(&path, &whole[..cut]).unwrap();
        let error = refusal();
        assert!(error.contains("It is cut off") && error.contains(&format!("the file has {cut}")), "{table}: {error}");
    }
    // The first entry of the first-level table names a table behind the end.
    let mut beyond = whole.clone();
    beyond[first_level..first_level + 8].copy_from_slice(&((1_u64 << 63) | (1 << 40)).to_be_bytes());
    fs::write(&path, &beyond).unwrap();
    assert!(refusal().contains("its second-level table reaches to byte 10995"), "{}", refusal());
    let mut huge = whole;
    huge[24..32].copy_from_slice(&(1_u64 << 60).to_be_bytes());
    fs::write(&path, &huge).unwrap();
    assert!(refusal().contains("does not fit its size of 1152921504606846976 bytes"), "{}", refusal());
}

#[test]
fn a_qcow2_image_keeps_what_was_flushed() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("disk.qcow2");
    let size = 8 << 20;
    create_qcow2(&path, size, None);
    let mut machine = Machine::with_image(scratch, path, ",format=qcow2");
    assert_eq!(u64::from(machine.guest.read(r::CONFIG)), size / 512);
    put_bytes(&machine.guest, DATA, &[0x66; 1024]);
    for sector in [0, 127, 5000, size / 512 - 2] {
        assert_eq!(machine.request(OUT, sector, &[(DATA, 1024, 0)]), OK);
    }
    let data = put_segments(&machine.guest, &[(5000, 1, 1)]);
    assert_eq!(machine.request(WRITE_ZEROES, 0, &[data]), OK);
    let data = put_segments(&machine.guest, &[(1024, 2048, 0)]);
    assert_eq!(machine.request(DISCARD, 0, &[data]), OK);
    assert_eq!(machine.request(FLUSH, 0, &[]), OK);
    // As a killed monitor leaves it.
    let copy = machine.path.with_extension("copy");
    fs::copy(&machine.path, &copy).unwrap();
    let Machine { guest, scratch, .. } = machine;
    drop(guest);
    let mut machine = Machine::with_image(scratch, copy, ",format=qcow2,ro");
    for (sector, byte) in
        [(0, 0x66), (127, 0x66), (128, 0x66), (129, 0), (5000, 0), (5001, 0x66), (size / 512 - 1, 0x66)]
    {
        assert_eq!(machine.request(IN, sector, &[(DATA, 512, WRITE)]), OK);
        assert_eq!(machine.guest.bytes(DATA, 512), [byte; 512], "{sector}");
    }
    assert_eq!(machine.request(OUT, 0, &[(DATA, 512, 0)]), IOERR);
}

#[test]
fn a_backing_file_is_used_only_where_its_format_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let place = |name: &str| scratch.path().join(name);
    fs::write(place("base.img"), vec![9; 1 << 16]).unwrap();
    create_qcow2(&place("top.qcow2"), 1 << 16, Some(("base.img", "raw")));
    create_qcow2(&place("deep.qcow2"), 1 << 16, Some(("top.qcow2", "qcow2")));
    let disk = |name: &str| {
        let text = format!("blk,path={},format=qcow2", place(name).display());
        make_from(&text).map_err(|error| {
            let mut chain = vec![error.to_string()];
            let mut source = error.source();
            while let Some(error) = source {
                chain.push(error.to_string());
                source = error.source();
            }
            chain.join(": ")
        })
    };
    let mut guest = Guest::new(disk("top.qcow2").unwrap());
    guest.start();
    assert_eq!(request(&mut guest, IN, 3, &[(DATA, 512, WRITE)]), OK);
    assert_eq!(guest.bytes(DATA, 512), [9; 512]);
    // The backing file is locked as well.
    let text = format!("blk,path={}", place("base.img").display());
    assert!(make_from(&text).is_err());
    drop(guest);
    assert!(disk("deep.qcow2").is_err());
    let error = disk("base.img").err().unwrap();
    assert!(error.contains("base.img as qcow2"), "{error}");

    // Without the extension that says the format: its header is cut off where extensions begin.
    let mut bytes = fs::read(place("top.qcow2")).unwrap();
    let extensions = u32::from_be_bytes(bytes[100..104].try_into().unwrap()) as usize;
    bytes[extensions..extensions + 8].fill(0);
    fs::write(place("guess.qcow2"), bytes).unwrap();
    let error = disk("guess.qcow2").err().unwrap();
    assert!(error.contains("does not say of which format its backing file base.img is"), "{error}");
}
