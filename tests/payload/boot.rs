//! What a guest is given: boot protocol, memory, tables, devices, interrupts, CPUs.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use carpel_testbed::payload;
use nix::sys::signal::Signal;

use crate::guest::{LAYOUTS, MACHINES, Outcome, Running, command, finish, run};
use crate::map::{expected_e820, extent, map};

#[test]
fn output_is_the_guests_own_to_the_byte() {
    for machine in MACHINES {
        let outcome = run("hello", &machine).expect_status(0);
        assert_eq!(outcome.stdout, "Hello from a guest\n", "{machine:?}");
        assert_eq!(outcome.stderr, "", "{machine:?}");
    }
}

#[test]
fn logging_stays_out_of_the_guests_output() {
    let outcome = run("hello", &["-vv"]).expect_status(0);
    assert_eq!(outcome.stdout, "Hello from a guest\n");
    assert_ne!(outcome.stderr, "");
}

#[test]
fn the_smallest_guest_runs() {
    assert_eq!(run("serial_byte", &[]).expect_status(0).stdout, ".");
}

#[test]
fn appended_texts_end_the_command_line_in_order() {
    let outcome = run("bootinfo", &["-a", "first second=2", "--append", "third"]).expect_status(0);
    let line = outcome.stdout.lines().next().unwrap();
    assert!(line.starts_with("cmdline: ") && line.ends_with("first second=2 third"), "{line}");
}

#[test]
fn e820_agrees_with_the_map() {
    for layout in LAYOUTS {
        for mem in ["64M", "3G", "3328M", "6G"] {
            let outcome = run("bootinfo", &["--layout", layout, "-m", mem]).expect_status(0);
            let given: Vec<_> = outcome.values("e820").map(|values| values.join(" ")).collect();
            assert_eq!(given, expected_e820(&map(layout, &["-m", mem])), "{layout} {mem}");
        }
    }
}

#[test]
fn memory_is_zero_and_there_to_its_last_word() {
    for layout in LAYOUTS {
        for (mem, edges) in [("64M", 1), ("3G", 1), ("6G", 3)] {
            for shared in [&[][..], &["--shared-memory"]] {
                let outcome = run("memory", &[&["--layout", layout, "-m", mem], shared].concat()).expect_status(0);
                assert_eq!(outcome.values("edge").count(), edges, "{layout} {mem} {shared:?}: {outcome:#?}");
            }
        }
    }
}

#[test]
fn a_large_initrd_arrives_whole_below_the_top_of_krun_ram() {
    check_initrd("krun");
}

#[test]
fn a_large_initrd_arrives_whole_above_the_kernel_of_crosvm() {
    check_initrd("crosvm");
}

#[test]
fn tables_are_sound_and_count_the_cpus() {
    for machine in MACHINES {
        let outcome = finish(command("tables", &["-c", "3"]).args(machine)).expect_status(0);
        let tables: Vec<_> = outcome.values("table").map(|values| values.join(" ")).collect();
        for table in ["XSDT", "FACP", "APIC", "DSDT"] {
            assert!(tables.iter().any(|name| name == table), "{table} in {tables:?}");
        }
        assert_eq!(outcome.values("madt").next().unwrap(), ["cpus", "3"]);
        assert_eq!(outcome.values("mp").next().unwrap(), ["cpus", "3"]);
    }
}

#[test]
fn devices_answer_and_holes_read_all_ones() {
    for machine in MACHINES {
        let before = SystemTime::now();
        let outcome = run("devices", &machine).expect_status(0);
        let clock = UNIX_EPOCH + Duration::from_secs(seconds(&outcome));
        // The clock counts whole seconds.
        assert!(clock + Duration::from_secs(1) >= before && clock <= SystemTime::now(), "{outcome:#?}");
    }
}

#[test]
fn what_small_kernels_expect_of_a_pc_is_there() {
    for machine in MACHINES {
        let pit = if machine[3].contains("full") { "pit=1" } else { "pit=0" };
        let outcome = finish(command("pc", &["-a", pit]).args(machine)).expect_status(0);
        assert!(outcome.stdout.starts_with(".\nok serial-ier\n"), "{outcome:#?}");
        assert!(outcome.stdout.ends_with("ok pci-absent\n"), "{outcome:#?}");
        assert_eq!(outcome.stdout.contains("ok pic-timer\n"), machine[3].contains("full"), "{outcome:#?}");
    }
}

#[test]
fn serial_and_timer_interrupts_arrive() {
    for machine in MACHINES {
        let outcome = run("interrupts", &machine).expect_status(0);
        assert!(outcome.stdout.contains("sent by interrupts\nok serial-interrupts\n"), "{outcome:#?}");
    }
}

#[test]
fn other_cpus_start_at_their_start_up_page() {
    for machine in MACHINES {
        let outcome = finish(command("smp", &["-c", "4", "-a", "page=0x5"]).args(machine)).expect_status(0);
        assert_eq!(outcome.values("cpus").next().unwrap(), ["4"]);
    }
}

#[test]
fn the_maps_that_guests_make_for_themselves_work() {
    for machine in MACHINES {
        // Each prints this last, or ends with a status of its own.
        for (payload, last) in [
            ("map_microkernel", "ok image-end\n"),
            ("map_exokernel", "memory 0x3ff9fc00 entries 5\n"),
            ("map_higher_half", "ok user-stack\n"),
        ] {
            let outcome = finish(command(payload, &["-c", "4"]).args(machine)).expect_status(0);
            assert!(outcome.stdout.ends_with(last), "{payload}: {outcome:#?}");
        }
    }
}

#[test]
fn as_many_as_64_cpus_start() {
    let outcome = run("smp", &["-c", "64"]).expect_status(0);
    assert_eq!(outcome.values("cpus").next().unwrap(), ["64"]);
}

#[test]
fn each_vcpu_is_a_thread_with_its_name() {
    let mut guest =
        Running::start(command("end", &["-c", "3", "-a", "how=idle", "--timeout", "60s"]).stdin(Stdio::null()));
    guest.wait_for("ending\n");
    // A thread names itself when it first runs, which may be after another vCPU's first byte.
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut vcpus = vcpu_threads(guest.pid());
    while vcpus.len() < 3 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
        vcpus = vcpu_threads(guest.pid());
    }
    guest.signal(Signal::SIGTERM);
    guest.finish().expect_status(143);
    assert_eq!(vcpus, ["vcpu0", "vcpu1", "vcpu2"]);
}

/// The names of a process's threads that run vCPUs, sorted.
fn vcpu_threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let mut vcpus: Vec<_> = names.map(|name| name.trim().to_owned()).filter(|name| name.contains("vcpu")).collect();
    vcpus.sort();
    vcpus
}

/// Has the guest sum up 40 MiB, more than the room between a kernel's file and where it runs.
fn check_initrd(layout: &str) {
    const BLOCK_WORDS: usize = 512;
    let size: u64 = 40 << 20;
    let words: Vec<u64> = (0..size / 8).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let sum = |block: &[u64]| block.iter().copied().fold(0, u64::wrapping_add);
    let checksum =
        words.chunks(BLOCK_WORDS).fold(0_u64, |checksum, block| checksum.wrapping_mul(31).wrapping_add(sum(block)));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&words.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let path = file.path().to_str().unwrap();

    let outcome = run("bootinfo", &["--layout", layout, "-i", path]).expect_status(0);
    let kernel = payload::path("bootinfo");
    let map = map(layout, &["-k", kernel.to_str().unwrap(), "-i", path]);
    let (start, end) = extent(&map, "claims", "initrd").expect("The map names the initrd");
    assert_eq!(end - start, size);
    let expected = vec![format!("{start:#x}"), format!("{size:#x}"), format!("{checksum:#x}")];
    assert_eq!(outcome.values("initrd").next().unwrap(), expected);
}

/// The guest's clock, `rtc 2026-11-21 12:34:56`, as Unix time.
fn seconds(outcome: &Outcome) -> u64 {
    let values = outcome.values("rtc").next().expect("The guest printed its clock").join("-").replace(':', "-");
    let numbers: Vec<u64> = values.split('-').map(|number| number.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second] = numbers[..] else { panic!("{values} is not a time") };
    // Days before the month in a year that begins in March: then the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    ((days * 24 + hour) * 60 + minute) * 60 + second
}
