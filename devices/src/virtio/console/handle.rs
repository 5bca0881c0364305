//! The monitor's end of the console's port.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::console::Consoles;

/// So many bytes of input are held for the guest.
const INPUT_MAX: usize = 4096;

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// The way to the guest's console through its virtio port. Clones are the same one.
#[derive(Clone)]
pub struct ConsoleHandle(Arc<Shared>);

impl fmt::Debug for ConsoleHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ConsoleHandle").finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    wake: EventFd,
    room: EventFd,
}

#[derive(Default)]
struct State {
    /// Other ends that wait for the ports.
    consoles: Option<Box<dyn Consoles>>,
    input: VecDeque<u8>,
    used: bool,
    /// Input was refused, and `room` has not been signalled since.
    refused: bool,
    /// What configuration space shows.
    size: Option<Size>,
    /// What it is to show.
    next_size: Option<Size>,
}

impl ConsoleHandle {
    pub(super) fn new() -> io::Result<Self> {
        let eventfd = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        Ok(Self(Arc::new(Shared { state: Mutex::default(), wake: eventfd()?, room: eventfd()? })))
    }

    /// Connects the ports that are consoles to their other ends, before the device is put in front of a guest.
    pub fn connect(&self, consoles: Box<dyn Consoles>) {
        self.state().consoles = Some(consoles);
    }

    /// What the ports are to be connected to, once.
    pub(super) fn consoles(&self) -> Option<Box<dyn Consoles>> {
        self.state().consoles.take()
    }

    /// Whether the guest uses the port: its driver opened it, and it has printed something there since. Until then, input
    /// is for the serial port.
    pub fn is_used(&self) -> bool {
        self.state().used
    }

    /// Hands the guest input. Returns how many bytes were taken: none while the guest does not use the port. After less
    /// than all, [`Self::room`] tells when to offer the rest.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut state = self.state();
        let room = if state.used { INPUT_MAX.saturating_sub(state.input.len()) } else { 0 };
        let taken = room.min(bytes.len());
        state.input.extend(&bytes[..taken]);
        state.refused = taken < bytes.len();
        drop(state);
        if taken > 0 {
            signal(&self.0.wake);
        }
        taken
    }

    /// Takes back what the guest, which does not use the port any more, has not read of its input: it is for the port that the
    /// guest uses next.
    pub fn take_back(&self) -> Vec<u8> {
        let mut state = self.state();
        if state.used { Vec::new() } else { state.input.drain(..).collect() }
    }

    /// Becomes readable when there is room again, and when the guest begins or ceases to use the port. The reader resets it by
    /// reading its counter.
    pub fn room(&self) -> &EventFd {
        &self.0.room
    }

    /// Tells the guest how large its terminal is. It only learns of a size at all if there is one before its driver starts.
    pub fn resize(&self, size: Size) {
        let mut state = self.state();
        state.next_size = Some(size);
        // Without a size, no driver reads one: that there is one must be seen before it looks.
        state.size.get_or_insert(size);
        drop(state);
        signal(&self.0.wake);
    }

    pub(super) fn size(&self) -> Option<Size> {
        self.state().size
    }

    /// Has configuration space show the size that was told last; returns whether one was told since the last call.
    pub(super) fn show_size(&self) -> bool {
        let mut state = self.state();
        let next = state.next_size.take();
        state.size = next.or(state.size);
        next.is_some()
    }

    /// Becomes readable when there is input or another size.
    pub(super) fn wake(&self) -> &EventFd {
        &self.0.wake
    }

    /// Takes input for the guest; returns how many bytes: none while it does not use the port.
    pub(super) fn take(&self, bytes: &mut [u8]) -> usize {
        let mut state = self.state();
        let count = if state.used { bytes.len().min(state.input.len()) } else { 0 };
        for (byte, input) in bytes.iter_mut().zip(state.input.drain(..count)) {
            *byte = input;
        }
        if state.input.is_empty() && std::mem::take(&mut state.refused) {
            signal(&self.0.room);
        }
        count
    }

    /// The guest begins or ceases to use the port. What it has not read by then is for whoever takes it back.
    pub(super) fn set_used(&self, used: bool) {
        let mut state = self.state();
        if state.used != used {
            state.used = used;
            state.refused = false;
            signal(&self.0.room);
            signal(&self.0.wake);
        }
    }

    /// Returns bytes of [`Self::take`] that the guest has not read, in front of all others.
    pub(super) fn put_back(&self, bytes: &[u8]) {
        let mut state = self.state();
        bytes.iter().rev().for_each(|&byte| state.input.push_front(byte));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal(event: &EventFd) {
    // It fails only when its counter is full, and then it is readable already.
    let _ = event.write(1);
}
