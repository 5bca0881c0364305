//! A vCPU's exits in our own terms, and what is done about them. Nothing here knows KVM.

use std::sync::{Arc, Mutex, PoisonError};

use carpel_devices::bus::Bus;
use carpel_devices::event::GuestEvent;
use carpel_devices::interrupt::EndOfInterrupt;

/// Why a vCPU left the guest.
#[derive(Debug)]
pub enum Exit<'a> {
    /// The guest reads a port: `data` holds one or more items of `size` bytes, each to be read from it.
    PortRead {
        /// Port number.
        port: u16,
        /// Bytes of one item, not 0.
        size: usize,
        /// What the guest gets.
        data: &'a mut [u8],
    },
    /// The guest writes to a port.
    PortWrite {
        /// Port number.
        port: u16,
        /// Bytes of one item, not 0.
        size: usize,
        /// The items.
        data: &'a [u8],
    },
    /// The guest reads memory that no RAM backs.
    MmioRead {
        /// Guest physical address.
        address: u64,
        /// What the guest gets.
        data: &'a mut [u8],
    },
    /// The guest writes memory that no RAM backs.
    MmioWrite {
        /// Guest physical address.
        address: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// The guest ended a level-triggered interrupt of this vector that an interrupt controller in the monitor delivered.
    EndOfInterrupt(u8),
    /// The guest told its firmware, which KVM is, that it ends.
    Firmware(GuestEvent),
    /// A signal for this thread, or nothing at all: enter the guest again.
    Interrupted,
    /// The vCPU met a triple fault; in words.
    TripleFault(String),
    /// The vCPU cannot go on; the reason.
    Dead(String),
    /// The host does not let it go on; the reason.
    Refused(String),
}

/// What a vCPU's thread does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter the guest again.
    Enter,
    /// Tell the machine, then enter the guest again.
    Report(GuestEvent),
    /// Nothing more, by a triple fault: the guest's death, or the reset that its kernel asked for; in words.
    TripleFault(String),
    /// Nothing more; the reason.
    Dead(String),
    /// Nothing more, for which the host is the reason.
    Refused(String),
}

/// The address spaces of a machine, with the devices in them.
pub struct Buses {
    /// Port I/O; empty on architectures without it.
    pub port: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
    /// Who learns of interrupts that the guest has ended, if there is an interrupt controller in the monitor.
    pub end_of_interrupt: Option<Arc<Mutex<dyn EndOfInterrupt>>>,
}

impl Default for Buses {
    fn default() -> Self {
        Self { port: Bus::new("port"), mmio: Bus::new("MMIO"), end_of_interrupt: None }
    }
}

/// Serves one exit.
pub fn dispatch(exit: Exit<'_>, buses: &Buses) -> Next {
    match exit {
        Exit::PortRead { port, size, data } => {
            data.chunks_mut(size.max(1)).for_each(|item| buses.port.read(port.into(), item));
        }
        Exit::PortWrite { port, size, data } => {
            data.chunks(size.max(1)).for_each(|item| buses.port.write(port.into(), item));
        }
        Exit::MmioRead { address, data } => buses.mmio.read(address, data),
        Exit::MmioWrite { address, data } => buses.mmio.write(address, data),
        Exit::EndOfInterrupt(vector) => {
            if let Some(controller) = &buses.end_of_interrupt {
                controller.lock().unwrap_or_else(PoisonError::into_inner).end_of_interrupt(vector);
            }
        }
        Exit::Firmware(event) => return Next::Report(event),
        Exit::Interrupted => {}
        Exit::TripleFault(reason) => return Next::TripleFault(reason),
        Exit::Dead(reason) => return Next::Dead(reason),
        Exit::Refused(reason) => return Next::Refused(reason),
    }
    Next::Enter
}

#[cfg(test)]
mod tests {
    use super::*;
    use carpel_devices::bus::BusDevice;

    /// Counts reads in the first byte and remembers writes.
    #[derive(Default)]
    struct Counter {
        reads: u8,
        writes: Vec<Vec<u8>>,
    }

    impl BusDevice for Counter {
        fn read(&mut self, _offset: u64, data: &mut [u8]) {
            self.reads += 1;
            data.fill(self.reads);
        }

        fn write(&mut self, _offset: u64, data: &[u8]) {
            self.writes.push(data.to_vec());
        }
    }

    fn buses() -> (Buses, Arc<Mutex<Counter>>) {
        let counter = Arc::<Mutex<Counter>>::default();
        let mut buses = Buses::default();
        buses.port.insert("counter", counter.clone(), 0x60, 1).unwrap();
        buses.mmio.insert("counter", counter.clone(), 0x1000, 8).unwrap();
        (buses, counter)
    }

    #[test]
    fn string_instructions_access_the_port_once_an_item() {
        let (buses, counter) = buses();
        let mut data = [0; 4];
        dispatch(Exit::PortRead { port: 0x60, size: 1, data: &mut data }, &buses);
        assert_eq!(data, [1, 2, 3, 4]);
        dispatch(Exit::PortWrite { port: 0x60, size: 1, data: b"ab" }, &buses);
        assert_eq!(counter.lock().unwrap().writes, [b"a", b"b"]);
    }

    #[test]
    fn memory_accesses_reach_the_device_or_read_ones() {
        let (buses, counter) = buses();
        dispatch(Exit::MmioWrite { address: 0x1004, data: &[7] }, &buses);
        assert_eq!(counter.lock().unwrap().writes, [[7]]);
        let mut data = [0; 8];
        dispatch(Exit::MmioRead { address: 0x2000, data: &mut data }, &buses);
        assert_eq!(data, [0xFF; 8]);
    }

    impl EndOfInterrupt for Counter {
        fn end_of_interrupt(&mut self, vector: u8) {
            self.writes.push(vec![vector]);
        }
    }

    #[test]
    fn an_interrupt_controller_learns_of_the_end_of_an_interrupt() {
        let (mut buses, controller) = buses();
        buses.end_of_interrupt = Some(controller.clone());
        dispatch(Exit::EndOfInterrupt(0x31), &buses);
        assert_eq!(controller.lock().unwrap().writes, [[0x31]]);
    }

    #[test]
    fn only_death_stops_a_vcpu() {
        let (buses, _) = buses();
        assert_eq!(dispatch(Exit::Interrupted, &buses), Next::Enter);
        assert_eq!(dispatch(Exit::EndOfInterrupt(0x30), &buses), Next::Enter);
        assert_eq!(dispatch(Exit::Firmware(GuestEvent::Reset), &buses), Next::Report(GuestEvent::Reset));
        assert_eq!(dispatch(Exit::Dead("x".into()), &buses), Next::Dead("x".into()));
        assert_eq!(dispatch(Exit::TripleFault("x".into()), &buses), Next::TripleFault("x".into()));
    }
}
