//! What stands behind guest RAM, as far as a device must know.

/// What the host has behind the guest's RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RamBacking {
    /// Anonymous memory of the process alone.
    #[default]
    Anonymous,
    /// A memfd, mapped shared: pages are its own, and stay where a mapping of them goes.
    Memfd,
    /// Huge pages out of the host's pool, set aside for the guest from the start and mapped shared, from a memfd or
    /// not.
    HugePages {
        /// Size of one in bytes, a power of 2.
        size: usize,
    },
    /// A file of the user's, whose contents are nobody else's to throw away.
    File,
}
