//! What serves the queues: all of them, in the main thread.

use std::io;
use std::ops::Range;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events};
use vmm_sys_util::timerfd::TimerFd;

use super::MULTIPORT;
use super::control::{FromDriver, MESSAGE, Note};
use super::handle::ConsoleHandle;
use super::port::{Link, Port, Sent};
use crate::console::Consoles;
use crate::endpoint::Input;
use crate::virtio::Worker;
use crate::virtio::interrupt::Interrupt;
use crate::virtio::queue::{Fault, Queues};

/// Event data: the monitor has input, or another size.
const WAKE: u32 = 0;
/// Event data: it is time to try output again.
const RETRY: u32 = 1;
/// Event data of the ports' own sources.
const PORTS: u32 = 2;

/// Queues of the control messages (section 5.3.2).
const CONTROL_RECEIVE: usize = 2;
const CONTROL_SEND: usize = 3;

/// When to try a full output again: soon at first, then ever later. Not each kind of output can be waited for.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_LAST: Duration = Duration::from_millis(64);

/// The device's only worker.
pub(super) struct ConsoleWorker {
    ports: Vec<Port>,
    handle: ConsoleHandle,
    interrupt: Option<Interrupt>,
    multiport: bool,
    retry: TimerFd,
    retry_after: Duration,
}

/// What a queue is for.
enum Role {
    Receive(usize),
    Send(usize),
    ControlReceive,
    ControlSend,
}

impl Role {
    fn of(queue: usize) -> Self {
        match queue {
            CONTROL_RECEIVE => Self::ControlReceive,
            CONTROL_SEND => Self::ControlSend,
            _ => {
                let port = if queue < CONTROL_RECEIVE { 0 } else { queue / 2 - 1 };
                if queue.is_multiple_of(2) { Self::Receive(port) } else { Self::Send(port) }
            }
        }
    }
}

/// The receive queue of a port; its transmit queue is the next.
const fn receive_queue(port: usize) -> usize {
    if port == 0 { 0 } else { 2 * port + 2 }
}

impl ConsoleWorker {
    pub(super) fn new(ports: Vec<Port>, handle: ConsoleHandle) -> io::Result<Self> {
        let retry = TimerFd::new()?;
        Ok(Self { ports, handle, interrupt: None, multiport: false, retry, retry_after: RETRY_FIRST })
    }

    pub(super) fn interrupting(self, interrupt: Interrupt) -> Self {
        Self { interrupt: Some(interrupt), ..self }
    }

    pub(super) fn connect(&mut self, consoles: &dyn Consoles) {
        self.ports.iter_mut().for_each(|port| port.connect(consoles));
    }

    fn send(&mut self, port: usize, queues: &mut Queues) -> Result<(), Fault> {
        let (Some(port), Some(queue)) = (self.ports.get_mut(port), queues.get(receive_queue(port) + 1)) else {
            return Ok(());
        };
        match port.send(queue)? {
            Sent::All => self.retry_after = RETRY_FIRST,
            Sent::Full { moved } => {
                self.retry_after = if moved { RETRY_FIRST } else { (self.retry_after * 2).min(RETRY_LAST) };
                if let Err(error) = self.retry.reset(self.retry_after, None) {
                    log::warn!("A console's output stops: {error}");
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, port: usize, queues: &mut Queues) -> Result<(), Fault> {
        match (self.ports.get_mut(port), queues.get(receive_queue(port))) {
            (Some(port), Some(queue)) => port.receive(queue),
            _ => Ok(()),
        }
    }

    /// Tells the driver what it has room for.
    fn tell(&mut self, queues: &mut Queues) -> Result<(), Fault> {
        let Some(queue) = queues.get(CONTROL_RECEIVE) else { return Ok(()) };
        for (number, port) in self.ports.iter_mut().enumerate() {
            while port.has_notes() {
                let Some(chain) = queue.pop()? else { return Ok(()) };
                let message = port.take_message(number).unwrap_or_default();
                let written = chain.writable().write(0, &message)?;
                queue.complete(chain, written as u32)?;
            }
        }
        Ok(())
    }

    fn listen(&mut self, queues: &mut Queues) -> Result<(), Fault> {
        while let Some(queue) = queues.get(CONTROL_SEND)
            && let Some(chain) = queue.pop()?
        {
            let mut message = [0; MESSAGE];
            let length = chain.readable().read(0, &mut message)?;
            queue.complete(chain, 0)?;
            let heard = if length == MESSAGE { FromDriver::parse(message) } else { None };
            match heard {
                Some(FromDriver::DeviceReady) => self.ports.iter_mut().for_each(|port| port.note(Note::Add)),
                Some(FromDriver::PortReady { port, ready }) => {
                    if let Some(port) = self.ports.get_mut(port) {
                        port.set_ready(ready);
                    }
                }
                Some(FromDriver::PortOpen { port, open }) => self.set_open(port, open, queues)?,
                None => {}
            }
        }
        self.tell(queues)
    }

    fn set_open(&mut self, number: usize, open: bool, queues: &mut Queues) -> Result<(), Fault> {
        let Some(port) = self.ports.get_mut(number) else { return Ok(()) };
        port.open = open;
        if number == 0 && !open {
            port.stop_receiving();
            self.handle.set_used(false);
        }
        self.receive(number, queues)
    }

    fn woken(&mut self, queues: &mut Queues) -> Result<(), Fault> {
        let _ = self.handle.wake().read();
        // Without a transport there is no driver either.
        if self.interrupt.as_ref().is_some_and(|interrupt| interrupt.config_changed(|| self.handle.show_size())) {
            self.ports[0].note(Note::Resize);
            self.tell(queues)?;
        }
        self.receive(0, queues)
    }
}

impl Worker for ConsoleWorker {
    fn queues(&self) -> Range<usize> {
        0..2 * self.ports.len() + 2
    }

    fn register(&mut self, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        ops.add(Events::with_data(self.handle.wake(), WAKE, EventSet::IN))?;
        ops.add(Events::with_data(&self.retry, RETRY, EventSet::IN))?;
        for (number, port) in (0..).zip(&self.ports) {
            if let Link::Endpoint { endpoint, .. } = &port.link
                && let Some(input) = &endpoint.input
            {
                input.register(PORTS + number * Input::DATA, ops)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, features: u64) {
        self.multiport = features >> MULTIPORT & 1 != 0;
        for (number, port) in self.ports.iter_mut().enumerate() {
            // Without control messages there is only the first port, and it is open.
            port.start(!self.multiport && number == 0);
        }
    }

    fn kick(&mut self, queue: usize, queues: &mut Queues) -> Result<(), Fault> {
        match Role::of(queue) {
            Role::Receive(port) => self.receive(port, queues),
            Role::Send(port) => self.send(port, queues),
            Role::ControlReceive => self.tell(queues),
            Role::ControlSend => self.listen(queues),
        }
    }

    fn event(&mut self, events: Events, queues: &mut Queues, ops: &mut EventOps) -> Result<(), Fault> {
        match events.data() {
            WAKE => self.woken(queues),
            RETRY => {
                let _ = self.retry.wait();
                let full: Vec<_> = (0..self.ports.len()).filter(|&port| self.ports[port].is_full()).collect();
                full.into_iter().try_for_each(|port| self.send(port, queues))
            }
            data => {
                let (number, source) = ((data - PORTS) / Input::DATA, (data - PORTS) % Input::DATA);
                let first = PORTS + number * Input::DATA;
                let number = number as usize;
                let Some(port) = self.ports.get_mut(number) else { return Ok(()) };
                port.event(first, source, events, ops);
                self.tell(queues)?;
                self.receive(number, queues)
            }
        }
    }

    fn stop(&mut self, queue: usize) {
        match Role::of(queue) {
            Role::Send(port) => self.ports[port].stop_sending(),
            Role::Receive(port) => {
                self.ports[port].stop_receiving();
                if port == 0 {
                    self.handle.set_used(false);
                }
            }
            Role::ControlReceive | Role::ControlSend => {}
        }
    }
}
