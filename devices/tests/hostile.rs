//! No sequence of accesses, at any offset and width, makes a device panic.

use carpel_devices::bus::{Bus, BusDevice};
use carpel_devices::console::ConsolePort;
use carpel_devices::event::{EventSink, GuestEvent};
use carpel_devices::interrupt::IrqLine;
use carpel_devices::legacy::{
    AcpiPm, Cmos, DebugConsole, DebugExit, FwCfg, FwFile, FwKernel, HostBridge, I8042, IoApic, Msi, MsiRouter, Pl011,
    Pl031, Pl061, Port61, PvPanic, ResetControl, Serial, Vga,
};
use proptest::prelude::*;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

struct Ignore;

impl EventSink for Ignore {
    fn event(&self, _: GuestEvent) {}
}

/// Holds the I/O APIC to its promise: an existing pin, and an address in the local APICs' range.
struct Check;

impl MsiRouter for Check {
    fn route(&mut self, pin: u8, msi: Option<Msi>) {
        assert!(pin < 24);
        assert!(msi.is_none_or(|msi| msi.address >> 20 == 0xfee));
    }
}

/// Each device once, with its name.
fn devices() -> Vec<(&'static str, Box<dyn BusDevice>)> {
    let events = || Arc::new(Ignore);
    let serial = Serial::new(IrqLine::new().unwrap(), Box::new(io::sink())).unwrap();
    let pl011 = Pl011::new(IrqLine::new().unwrap(), Box::new(io::sink())).unwrap();
    vec![
        ("serial", Box::new(serial)),
        ("pl011", Box::new(pl011)),
        ("pl031", Box::new(Pl031::new(IrqLine::new().unwrap()))),
        ("pl061", Box::new(Pl061::new())),
        ("cmos", Box::new(Cmos::new(1 << 30, 0, SystemTime::now))),
        ("i8042", Box::new(I8042::new(events()))),
        ("debug-console", Box::new(DebugConsole::default())),
        ("fw-cfg", Box::new(FwCfg::new(1, vec![FwFile { name: "file", contents: vec![1; 3] }], Some(fw_kernel())))),
        ("host-bridge", Box::new(HostBridge::new(ResetControl::new(events())))),
        ("port61", Box::new(Port61::default())),
        ("vga", Box::new(Vga::default())),
        ("reset", Box::new(ResetControl::new(events()))),
        ("debug-exit", Box::new(DebugExit::new(events()))),
        ("acpi-pm", Box::new(AcpiPm::new(events()))),
        ("pvpanic", Box::new(PvPanic::new(events()))),
        ("ioapic", Box::new(IoApic::new(0, Box::new(Check)))),
    ]
}

fn fw_kernel() -> FwKernel {
    let part = || Box::new(vec![2; 3]);
    FwKernel { setup: part(), kernel: part(), initrd: Some(part()), cmdline: String::new() }
}

#[derive(Clone, Debug)]
enum Access {
    Read(u64, usize),
    Write(u64, Vec<u8>),
}

fn access() -> impl Strategy<Value = Access> {
    // Mostly offsets that have registers, and the edges of the range.
    let offset = || prop_oneof![8 => 0..0x48u64, 1 => u64::MAX - 8..=u64::MAX, 1 => any::<u64>()];
    prop_oneof![
        (offset(), 0..=8usize).prop_map(|(offset, len)| Access::Read(offset, len)),
        (offset(), prop::collection::vec(any::<u8>(), 0..=8)).prop_map(|(offset, data)| Access::Write(offset, data)),
    ]
}

proptest! {
    #[test]
    fn no_access_makes_a_device_panic(accesses in prop::collection::vec(access(), 1..200)) {
        for (_, mut device) in devices() {
            for access in &accesses {
                match access {
                    Access::Read(offset, len) => device.read(*offset, &mut vec![0; *len]),
                    Access::Write(offset, data) => device.write(*offset, data),
                }
            }
        }
    }

    #[test]
    fn the_serial_port_never_holds_more_than_its_fifo(
        accesses in prop::collection::vec((access(), 0..200usize), 1..200),
    ) {
        let mut serial = Serial::new(IrqLine::new().unwrap(), Box::new(io::sink())).unwrap();
        for (access, input) in accesses {
            match access {
                Access::Read(offset, len) => serial.read(offset, &mut vec![0; len]),
                Access::Write(offset, data) => serial.write(offset, &data),
            }
            prop_assert!(serial.input(&vec![b'x'; input]) <= 64);
        }
    }

    #[test]
    fn a_bus_answers_every_byte_of_every_read(addr in 0..0x60u64, len in 0..=8usize) {
        let mut bus = Bus::new("port");
        bus.insert("debug-exit", Arc::new(Mutex::new(DebugExit::new(Arc::new(Ignore)))), 0x20, 0x10)
            .unwrap();
        let mut data = vec![0x55; len];
        bus.read(addr, &mut data);
        let expected: Vec<u8> = (addr..).take(len)
            .map(|at| if (0x20..0x30).contains(&addr) && at < 0x30 { 0 } else { 0xff })
            .collect();
        prop_assert_eq!(data, expected);
    }
}
