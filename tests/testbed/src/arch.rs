//! The architectures that the testbed can make hosts and guests for.

use anyhow::{Context, Result};

/// What differs between architectures, for hosts, guests and their kernels.
#[derive(Debug)]
pub struct Architecture {
    /// Its name as Linux (`uname -m`) and `carpel map --arch` know it.
    pub name: &'static str,
    /// Its name in the distribution's packages.
    pub package: &'static str,
    /// What tells its host from others of the architecture, for people.
    pub host: &'static str,
    /// Rust's target whose binaries run in its hosts.
    pub target: &'static str,
    /// What emulates a machine of it with virtualization extensions.
    pub emulator: Emulator,
    /// What the distribution calls its cross compiler and the C library for that.
    pub cross: &'static [&'static str],
    /// Kernel command line of the emulated host.
    pub append: &'static str,
    /// Kernel parameters of its guests.
    pub guest_append: &'static str,
    /// Modules of the emulated host, as far as they are modules: those that make /dev/kvm, /dev/net/tun and so on.
    pub modules: &'static [&'static str],
    /// CPU flags in /proc/cpuinfo of which one says that the CPU can run guests itself.
    pub kvm_flags: &'static [&'static str],
    /// What `make` in the kernel's source calls its bootable image, and where it puts it.
    pub image: (&'static str, &'static str),
}

/// QEMU for an architecture.
#[derive(Clone, Copy, Debug)]
pub struct Emulator {
    /// The package that has it.
    pub package: &'static str,
    /// Its program.
    pub program: &'static str,
    /// Its arguments for a machine that can run guests, but for the CPU.
    pub machine: &'static [&'static str],
    /// The CPU that it emulates.
    pub cpu: &'static str,
    /// The CPU where QEMU is older than [`SOUND_NESTED_PAGING`].
    pub cpu_of_old: &'static str,
}

/// First major version of QEMU whose emulation of SVM's nested paging runs guests of several vCPUs. Older ones lose the memory of the
/// host or of the guest soon after a guest's second vCPU has started, and from this one on, guests no longer run without nested paging
/// (docs/testing.md).
pub const SOUND_NESTED_PAGING: u32 = 10;

/// x86-64. TCG emulates AMD's SVM, so the host has a real `kvm_amd`.
pub const X86_64: Architecture = Architecture {
    name: "x86_64",
    package: "amd64",
    host: "x86_64",
    target: "x86_64-unknown-linux-gnu",
    emulator: Emulator {
        package: "qemu-system-x86",
        program: "qemu-system-x86_64",
        machine: &["-accel", "tcg,thread=multi", "-smp", "2", "-m", "2000"],
        cpu: "EPYC",
        cpu_of_old: "EPYC,-npt",
    },
    cross: &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
    append: "console=ttyS0 panic=-1 mitigations=off quiet",
    guest_append: "console=ttyS0 panic=-1",
    modules: &["virtio_pci", "virtio_console", "kvm_amd", "tun"],
    kvm_flags: &["vmx", "svm"],
    image: ("bzImage", "arch/x86/boot/bzImage"),
};

/// x86-64 with nested paging whatever QEMU's version, as real hosts have it: for measurements of guests with one vCPU. A shadowing KVM
/// leaves the guest several times as often.
pub const X86_64_NESTED_PAGING: Architecture = Architecture {
    host: "x86_64-nested-paging",
    emulator: Emulator { cpu_of_old: "EPYC", ..X86_64.emulator },
    modules: &["virtio_pci", "virtio_console", "kvm_amd", "tun", "vhost_vsock"],
    ..X86_64
};

/// aarch64 with a GICv3. TCG emulates EL2; Debian's kernel has KVM built in, and at `nvhe` it keeps out of EL2 itself, which
/// emulation does much faster. Its guests print little, for each byte costs milliseconds.
pub const AARCH64: Architecture = Architecture {
    name: "aarch64",
    package: "arm64",
    host: "aarch64-gicv3",
    target: "aarch64-unknown-linux-gnu",
    emulator: Emulator {
        package: "qemu-system-arm",
        program: "qemu-system-aarch64",
        machine: &[
            "-M",
            "virt,virtualization=on,gic-version=3",
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            "1500",
        ],
        cpu: "max",
        cpu_of_old: "max",
    },
    cross: &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    append: "console=ttyAMA0 panic=-1 quiet kvm-arm.mode=nvhe",
    guest_append: "quiet",
    modules: &["virtio_pci", "virtio_console", "tun"],
    kvm_flags: &[],
    image: ("Image", "arch/arm64/boot/Image"),
};

/// aarch64 with a GICv2, which is all that its KVM can emulate then.
pub const AARCH64_GICV2: Architecture = Architecture {
    host: "aarch64-gicv2",
    emulator: Emulator {
        machine: &[
            "-M",
            "virt,virtualization=on,gic-version=2",
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            "1500",
        ],
        ..AARCH64.emulator
    },
    ..AARCH64
};

impl Architecture {
    /// Whether it is this machine's.
    pub fn is_native(&self) -> bool {
        self.name == std::env::consts::ARCH
    }
}

/// The architecture of this machine.
pub fn native() -> Result<&'static Architecture> {
    [&X86_64]
        .into_iter()
        .find(|arch| arch.is_native())
        .with_context(|| format!("The testbed knows no hosts of architecture {}", std::env::consts::ARCH))
}
