//! The interrupt line of a device: an eventfd that the machine registers as an irqfd.

use std::io;
use std::sync::Arc;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// An edge-triggered interrupt line. Clones are the same line.
#[derive(Clone, Debug)]
pub struct IrqLine(Arc<EventFd>);

impl IrqLine {
    /// A line that is not connected yet: triggers are counted by its eventfd until an irqfd consumes them.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?)))
    }

    /// Raises one edge.
    pub fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }

    /// The eventfd to register as an irqfd.
    pub fn eventfd(&self) -> &EventFd {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::IrqLine;

    #[test]
    fn a_clone_triggers_the_same_line() {
        let line = IrqLine::new().unwrap();
        line.clone().trigger().unwrap();
        line.trigger().unwrap();
        assert_eq!(line.eventfd().read().unwrap(), 2);
    }
}
