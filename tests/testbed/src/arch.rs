//! The architectures that the testbed can make hosts and guests for.

use anyhow::{Context, Result};

/// What differs between architectures, for hosts, guests and their kernels.
#[derive(Debug)]
pub struct Architecture {
    /// Its name as Linux (`uname -m`) and `carpel map --arch` know it.
    pub name: &'static str,
    /// Rust's target whose binaries run in its hosts.
    pub target: &'static str,
    /// QEMU's program and arguments that emulate a machine with virtualization extensions.
    pub qemu: &'static [&'static str],
    /// Kernel command line of the emulated host.
    pub append: &'static str,
    /// Modules that make /dev/kvm, in order of loading.
    pub kvm_modules: &'static [&'static str],
    /// CPU flags in /proc/cpuinfo of which one says that the CPU can run guests itself.
    pub kvm_flags: &'static [&'static str],
    /// What `make` in the kernel's source calls its bootable image, and where it puts it.
    pub image: (&'static str, &'static str),
}

/// x86-64. TCG emulates AMD's SVM with nested paging, so the host has a real `kvm_amd`.
pub const X86_64: Architecture = Architecture {
    name: "x86_64",
    target: "x86_64-unknown-linux-gnu",
    qemu: &["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "EPYC", "-smp", "2", "-m", "2000"],
    append: "console=ttyS0 panic=-1 mitigations=off quiet",
    kvm_modules: &["irqbypass", "kvm", "kvm-amd"],
    kvm_flags: &["vmx", "svm"],
    image: ("bzImage", "arch/x86/boot/bzImage"),
};

/// The architecture of this machine.
pub fn native() -> Result<&'static Architecture> {
    [&X86_64]
        .into_iter()
        .find(|arch| arch.name == std::env::consts::ARCH)
        .with_context(|| format!("The testbed knows no hosts of architecture {}", std::env::consts::ARCH))
}
