//! `carpel run` with the test guests of `resources/payloads`, on this machine's /dev/kvm: what a guest is given, how its end
//! becomes an exit status, and the console between them.

#![cfg(target_arch = "x86_64")]

mod balloon;
mod blk;
mod boot;
mod console;
mod cpu;
mod dump;
mod ends;
mod firmware;
mod guest;
mod hugepages;
mod junit;
mod map;
mod multiboot;
mod net;
mod report;
mod verdict;
mod virtio;
mod virtio_console;
mod vsock;
