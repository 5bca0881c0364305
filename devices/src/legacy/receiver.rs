//! The receive FIFO of a serial port, which knows what the guest has seen of it.
//!
//! Drivers throw away what lies in a port's receiver when they open and close it: stale input, on a real line. Here it is what a
//! user typed or piped early. So what a driver has not been shown is not there for it to throw away: it is set aside
//! until the guest listens.

use std::collections::VecDeque;

/// Received bytes that wait for the guest.
#[derive(Default)]
pub(super) struct Receiver {
    bytes: VecDeque<u8>,
    /// So many of them, from the front, the guest was shown.
    shown: usize,
    /// The guest finds only what it was shown.
    aside: bool,
}

impl Receiver {
    /// How many bytes it holds, set aside or not.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the guest finds a byte.
    pub(super) fn has_data(&self) -> bool {
        self.visible() > 0
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The byte that the guest reads.
    pub(super) fn pop(&mut self) -> Option<u8> {
        if !self.has_data() {
            return None;
        }
        self.shown = self.shown.saturating_sub(1);
        self.bytes.pop_front()
    }

    /// The guest is told that there is something.
    pub(super) fn show(&mut self) {
        self.shown = self.visible();
    }

    /// Drops what the guest was shown.
    pub(super) fn drop_shown(&mut self) {
        self.bytes.drain(..self.shown);
        self.shown = 0;
    }

    /// Hides what the guest was not shown.
    pub(super) fn set_aside(&mut self) {
        self.aside = self.bytes.len() > self.shown;
    }

    /// Ends that; returns whether anything was hidden.
    pub(super) fn bring_back(&mut self) -> bool {
        std::mem::take(&mut self.aside)
    }

    fn visible(&self) -> usize {
        if self.aside { self.shown } else { self.bytes.len() }
    }
}
