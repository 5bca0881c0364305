//! Guests whose memory is made of huge pages: on a host whose pool has them, or can be given them by root.

use std::cell::Cell;
use std::fs;

use nix::sys::signal::Signal;

use crate::balloon::{USED, follow, in_use, start};
use crate::guest::run;

const POOL: &str = "/proc/sys/vm/nr_hugepages";
/// As much as the guest makes lists of.
const MEM: [&str; 2] = ["-m", "320M"];

/// More huge pages in the host's pool, for a time: as many more as a guest needs, if this user may and the host can.
struct MorePages(Option<u64>);

impl MorePages {
    fn new() -> Self {
        let before = pool("HugePages_Total");
        let wanted = before + (320 << 20) / page();
        Self(fs::write(POOL, wanted.to_string()).ok().map(|()| before))
    }
}

impl Drop for MorePages {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            fs::write(POOL, before.to_string()).expect("The pool can be made smaller");
        }
    }
}

fn pool(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("Linux has huge pages");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Bytes of a huge page.
fn page() -> u64 {
    pool("Hugepagesize") << 10
}

fn available() -> u64 {
    pool("HugePages_Free") - pool("HugePages_Rsvd")
}

/// Bytes of huge pages that a process has in use.
fn huge(pid: u32) -> u64 {
    in_use(pid, "Private_Hugetlb:") + in_use(pid, "Shared_Hugetlb:")
}

/// One test, for there is one pool.
#[test]
fn guests_of_huge_pages_have_them_set_aside_and_give_them_back() {
    let _more = MorePages::new();
    let needed = (320 << 20) / page();
    if page() != 2 << 20 || available() < needed {
        eprintln!("The pool cannot be given {needed} huge pages of 2 MiB: only the refusal is tested");
        refused();
        return;
    }
    for shared in [&[][..], &["--shared-memory"]] {
        let arguments = [&["--hugepages"][..], &MEM, shared].concat();
        run("hello", &arguments).expect_status(0);
        let before = available();
        let guest = start(&arguments);
        let steps = Cell::new(0);
        assert_eq!(available() + needed, before, "all pages are set aside before they are touched");
        assert!(huge(guest.pid()) < 64 << 20);
        refused();
        let measure = |pid| {
            let (huge, lent) = (huge(pid), before - available());
            // What the balloon has is at others' disposal, not only out of the guest's hands.
            let inflated = steps.replace(steps.get() + 1) == 2;
            assert_eq!(lent, if inflated { needed - USED / page() } else { needed }, "{shared:?} {}", steps.get());
            huge
        };
        follow(guest, &[("used", true), ("inflated", false), ("used again", true)], measure);
        assert_eq!(available(), before);
    }
    taken_by_others();
}

/// While one guest has the pool's pages, there are none for another.
fn refused() {
    let before = pool("HugePages_Rsvd");
    for shared in [&[][..], &["--shared-memory"]] {
        let (page, free, total) = (page() >> 10, available(), pool("HugePages_Total"));
        let needed = ((free + 1) * page) >> 10;
        let mem = format!("{}M", needed.max(64));
        let outcome = run("hello", &[&["--hugepages", "-m", &mem][..], shared].concat()).expect_status(2);
        let needed = needed.max(64) * 1024 / page;
        let expected = format!(
            "carpel: Guest memory needs {needed} huge pages of {page} KiB, and this host has {free} free: \
             `echo {} > {POOL}` as root, or drop --hugepages",
            total + needed - free
        );
        assert!(
            outcome.stderr.starts_with(&expected) && outcome.stderr.lines().count() == 1,
            "{outcome:#?} {expected}"
        );
    }
    assert_eq!(pool("HugePages_Rsvd"), before, "nothing stays reserved");
}

/// A guest that takes pages back which the pool no longer has is told so, and neither it nor carpel dies of touching
/// them.
fn taken_by_others() {
    let mut guest = start(&["--hugepages", "--shared-memory", MEM[0], MEM[1]]);
    for step in ["used?\n", "inflated?\n"] {
        guest.write(b"\n");
        guest.wait_for(step);
    }
    let total = pool("HugePages_Total");
    fs::write(POOL, (total - available()).to_string()).unwrap();
    guest.write(b"\n");
    guest.wait_for_error("no huge page left for memory that the guest takes back");
    guest.signal(Signal::SIGTERM);
    guest.finish().expect_status(143);
}
