//! The host's pool of huge pages of its default size (Linux, Documentation/admin-guide/mm/hugetlbpage.rst).

use std::fs;

/// What the pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Size of a page in bytes.
    pub page: u64,
    /// Pages in the pool, without those that it has beyond its size and will lose.
    pub size: u64,
    /// Pages that nothing is in ...
    pub free: u64,
    /// ... of which so many are promised already.
    pub reserved: u64,
}

impl Pool {
    /// Asks Linux; none where it has no huge pages.
    pub fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(meminfo: &str) -> Option<Self> {
        let number = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        let page = number("Hugepagesize")?.checked_mul(1 << 10).filter(|page| page.is_power_of_two())?;
        let size = number("HugePages_Total")?.saturating_sub(number("HugePages_Surp")?);
        Some(Self { page, size, free: number("HugePages_Free")?, reserved: number("HugePages_Rsvd")? })
    }

    /// Pages that can be had.
    pub const fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved)
    }

    /// The size of the pool in which so many can be had.
    pub const fn total_for(&self, needed: u64) -> u64 {
        self.size + needed.saturating_sub(self.available())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       24684176 kB\nHugePages_Total:      12\nHugePages_Free:       10\n\
                           HugePages_Rsvd:        4\nHugePages_Surp:        2\nHugepagesize:       2048 kB\n";

    #[test]
    fn the_pool_must_grow_by_what_is_missing() {
        let pool = Pool::parse(MEMINFO).unwrap();
        assert_eq!(pool, Pool { page: 2 << 20, size: 10, free: 10, reserved: 4 });
        assert_eq!((pool.available(), pool.total_for(6), pool.total_for(100)), (6, 10, 104));
    }

    #[test]
    fn a_kernel_without_huge_pages_has_no_pool() {
        assert_eq!(Pool::parse("MemTotal:       24684176 kB\n"), None);
        assert_eq!(Pool::parse(&MEMINFO.replace("2048", "3000")), None);
    }
}
