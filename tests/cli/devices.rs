//! Devices that cannot be had, and what they must not leave behind.

use std::fs;

use tempfile::tempdir;

use crate::carpel::{carpel, complaint, expect_parts, hello, refusal};
use crate::guest::finish;

#[test]
fn a_refused_device_leaves_no_file_of_another() {
    for args in [
        &["--report", "run.json", "--disk", "missing"][..],
        &["--report", "run.xml", "--console", "file=missing/log"],
        &["--console", "file=log", "--disk", "missing"],
        &["--vsock", "cid=3,uds=socket", "--disk", "missing"],
        &["--device", "console,name=a,file=port", "--device", "console,name=b,socket=other", "--disk", "missing"],
    ] {
        expect_parts(&refusal(&mut hello(args), 2), &["missing", "No such file or directory"]);
    }
    let twice = ["--device", "console,name=a,file=x", "--device", "console,name=a,file=y"];
    expect_parts(&refusal(&mut hello(&twice), 2), &["Two ports have the name `a`"]);
}

#[test]
fn what_a_guest_has_once_is_not_taken_twice() {
    let (one, two) = ("vsock,uds=a", "vsock,uds=b");
    let line = refusal(&mut hello(&["--vsock", "uds=a", "--device", two]), 2);
    expect_parts(&line, &["A guest has one vsock", one, two]);
    let line = refusal(&mut hello(&["--device", "balloon,size=1M", "--device", "balloon,stats=1"]), 2);
    expect_parts(&line, &["A guest has one balloon", "balloon,size=1M", "balloon,stats=1"]);
}

#[test]
fn two_disks_share_an_image_only_to_read_it() {
    let directory = tempdir().unwrap();
    let image = directory.path().join("disk.img");
    fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let disk = |keys: &str| format!("{}{keys}", image.display());
    let run = |first: &str, second: &str| finish(&mut hello(&["--disk", &disk(first), "--disk", &disk(second)]));
    for keys in [("", ""), (",ro", ""), ("", ",ro"), ("", ",ephemeral")] {
        let line = complaint(run(keys.0, keys.1), 2);
        expect_parts(&line, &["have the same image", &disk(keys.0), &disk(keys.1), "only `ro` can be shared"]);
    }
    run(",ro", ",ro").expect_status(0);
    run(",ro", ",ephemeral").expect_status(0);
}

#[test]
fn no_output_goes_into_a_disk_or_into_another_output() {
    let directory = tempdir().unwrap();
    let image = directory.path().join("disk.img");
    let image = image.to_str().unwrap();
    fs::write(image, vec![7; 4096]).unwrap();
    let [file, port] = [format!("file={image}"), format!("console,name=a,file={image}")];
    for args in [
        &["--disk", image, "--console", &file][..],
        &["--disk", &format!("{image},ro"), "--console", &file],
        &["--disk", image, "--device", &port],
        &["--disk", image, "--report", image],
        &["--console", &file, "--report", image],
        &["--console", &file, "--device", &port],
    ] {
        let line = complaint(finish(&mut hello(args)), 2);
        expect_parts(&line, &[image, "in use by another"]);
        let held = fs::read(image).unwrap();
        assert!(args[0] == "--console" || held == vec![7; 4096], "{args:?}");
    }
}

#[test]
fn numbers_have_no_unit() {
    for (kind, key) in [("blk", "queues"), ("blk", "ops"), ("net", "queues"), ("net", "mtu"), ("balloon", "stats")] {
        let line = refusal(&mut hello(&["--device", &format!("{kind},{key}=1K")]), 2);
        expect_parts(&line, &[&format!("`{key}` takes a whole number from 1 up, not `1K`")]);
    }
    let list = finish(&mut carpel(&["devices"])).expect_status(0).stdout;
    expect_parts(&list, &["  queues=N  how many", "  rate=SIZE  bytes per second"]);
}
