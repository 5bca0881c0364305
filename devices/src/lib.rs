//! The buses that a guest's accesses arrive on, and the devices behind them.
//!
//! A device is a [`bus::BusDevice`]: it knows the offsets of its registers, not where it is mapped and not which
//! hypervisor runs it. It interrupts the guest through an [`interrupt::IrqLine`] and tells the machine that the guest
//! ended through an [`event::EventSink`].
//!
//! The guest chooses every offset, width and value. No access may panic, block without end, or allocate without bound.

#![deny(unsafe_code)]

pub mod bus;
pub mod console;
pub mod diagnostics;
pub mod endpoint;
pub mod event;
mod host_socket;
pub mod interrupt;
pub mod key_values;
pub mod leftover;
pub mod legacy;
pub mod registry;
pub mod thread;
pub mod units;
pub mod virtio;
