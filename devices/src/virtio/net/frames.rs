//! What both directions that frames pass in have in common.

/// At most so many frames pass in one direction before the other has its turn.
pub const FRAMES_PER_PASS: u32 = 64;

/// Frames of one direction since the driver started.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameCounts {
    pub passed: u64,
    pub dropped: u64,
}
