//! Interrupts of devices, where they go (for now a line, which is an eventfd that the machine registers as an irqfd), and who
//! learns that an interrupt has ended.

use std::fmt;
use std::io;
use std::sync::{Arc, Once, OnceLock};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Where one interrupt of a device goes. A device does not know what it is: an edge on a line of the hypervisor's controller, as
/// [`IrqLine`] is; for others, a message (MSI) or the pin of a controller in the monitor are sinks of the same kind.
pub trait InterruptSink: fmt::Debug + Send + Sync {
    /// Interrupts the guest once. Any thread calls this, also one that must not wait.
    fn trigger(&self) -> io::Result<()>;
}

/// An edge-triggered interrupt line. Clones are the same line.
#[derive(Clone, Debug)]
pub struct IrqLine(Arc<Line>);

struct Line {
    eventfd: EventFd,
    connect: OnceLock<Connect>,
    connected: Once,
}

type Connect = Box<dyn Fn(&EventFd) + Send + Sync>;

/// An interrupt controller in the monitor that must learn when the guest has ended an interrupt.
pub trait EndOfInterrupt: Send {
    /// A vCPU ended the level-triggered interrupt `vector`.
    fn end_of_interrupt(&mut self, vector: u8);
}

impl IrqLine {
    /// A line that is not connected yet: triggers are counted by its eventfd until an irqfd consumes them.
    pub fn new() -> io::Result<Self> {
        let eventfd = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Line { eventfd, connect: OnceLock::new(), connected: Once::new() })))
    }

    /// Has `connect` register the eventfd as an irqfd, before the first edge and only if there is one: a VM that has had an
    /// irqfd takes longer to close. Of several calls, the first counts.
    pub fn connect(&self, connect: impl Fn(&EventFd) + Send + Sync + 'static) {
        let _ = self.0.connect.set(Box::new(connect));
    }

    /// The eventfd to register as an irqfd.
    pub fn eventfd(&self) -> &EventFd {
        &self.0.eventfd
    }
}

impl InterruptSink for IrqLine {
    /// Raises one edge. It fails only when the eventfd's counter is full, and then an edge is on its way.
    fn trigger(&self) -> io::Result<()> {
        let Line { eventfd, connect, connected } = &*self.0;
        if let Some(connect) = connect.get() {
            connected.call_once(|| connect(eventfd));
        }
        eventfd.write(1)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("eventfd", &self.eventfd).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{InterruptSink as _, IrqLine};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_clone_triggers_the_same_line() {
        let line = IrqLine::new().unwrap();
        line.clone().trigger().unwrap();
        line.trigger().unwrap();
        assert_eq!(line.eventfd().read().unwrap(), 2);
    }

    #[test]
    fn it_is_connected_once_and_only_if_it_is_used() {
        let (line, connected) = (IrqLine::new().unwrap(), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&connected);
        line.connect(move |eventfd| {
            count.fetch_add(1, Ordering::Relaxed);
            assert!(eventfd.read().is_err(), "no edge came before");
        });
        assert_eq!(connected.load(Ordering::Relaxed), 0);
        line.clone().trigger().unwrap();
        line.trigger().unwrap();
        assert_eq!(connected.load(Ordering::Relaxed), 1);
    }
}
