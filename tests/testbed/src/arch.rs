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
    /// Version of the GIC of its hosts, which is what their KVM emulates best; none where there is no GIC.
    pub gic: Option<u8>,
    /// CPU flags in /proc/cpuinfo of which one says that the CPU can run guests itself; none where every /dev/kvm is such a CPU's.
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
    gic: None,
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
    gic: Some(3),
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
    gic: Some(2),
    ..AARCH64
};

impl Architecture {
    /// Whether it is this machine's.
    pub fn is_native(&self) -> bool {
        self.name == std::env::consts::ARCH
    }

    /// Why this machine is no host of this kind, whatever its KVM can do; none if it is one.
    pub fn why_not_this_machine(&self) -> Option<String> {
        self.why_not(std::env::consts::ARCH, &interrupts())
    }

    fn why_not(&self, arch: &str, interrupts: &str) -> Option<String> {
        if self.name != arch {
            return Some(format!("this machine is {arch}"));
        }
        let gic = self.gic.map(|_| gic(interrupts));
        (gic != self.gic).then(|| format!("this machine has a GICv{}", gic.unwrap_or_default()))
    }
}

/// The kind of host that this machine is.
pub fn native() -> Result<&'static Architecture> {
    of(std::env::consts::ARCH, &interrupts())
}

/// Every kind of host that boot tests run in, this machine's kind first.
pub fn all() -> Result<Vec<&'static Architecture>> {
    let native = native()?;
    let others = HOSTS.into_iter().filter(|arch| arch.host != native.host);
    Ok([native].into_iter().chain(others).collect())
}

const HOSTS: [&Architecture; 3] = [&X86_64, &AARCH64, &AARCH64_GICV2];

fn of(arch: &str, interrupts: &str) -> Result<&'static Architecture> {
    HOSTS
        .into_iter()
        .find(|host| host.why_not(arch, interrupts).is_none())
        .with_context(|| format!("The testbed knows no hosts of architecture {arch}"))
}

/// The kernel's table of interrupts, which names their controllers.
fn interrupts() -> String {
    std::fs::read_to_string("/proc/interrupts").unwrap_or_default()
}

/// The version of the GIC that a table of interrupts names (Linux's drivers/irqchip/irq-gic.c and irq-gic-v3.c, the chips' names; before
/// 6.0 that of a GICv2 is `GIC-0`). A GICv4 is a GICv3 with more.
fn gic(interrupts: &str) -> u8 {
    if interrupts.contains("GICv3") || interrupts.contains("GICv4") { 3 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GICV3: &str = " 11:  52  61  GICv3  27 Level  arch_timer\n";
    const GICV2: &str = " 11:  52  61  GIC-0  27 Level  arch_timer\n";

    #[test]
    fn the_machine_decides_which_host_is_native() {
        assert_eq!(of("x86_64", "").unwrap().host, "x86_64");
        assert_eq!(of("aarch64", GICV3).unwrap().host, "aarch64-gicv3");
        assert_eq!(of("aarch64", GICV2).unwrap().host, "aarch64-gicv2");
        assert!(of("riscv64", "").unwrap_err().to_string().contains("riscv64"));
    }

    #[test]
    fn a_machine_is_no_host_with_another_interrupt_controller() {
        assert_eq!(AARCH64.why_not("aarch64", GICV3), None);
        assert_eq!(AARCH64_GICV2.why_not("aarch64", GICV3).unwrap(), "this machine has a GICv3");
        assert_eq!(AARCH64.why_not("aarch64", GICV2).unwrap(), "this machine has a GICv2");
        assert_eq!(AARCH64.why_not("x86_64", "").unwrap(), "this machine is x86_64");
        assert_eq!(X86_64.why_not("aarch64", GICV3).unwrap(), "this machine is aarch64");
        assert_eq!(X86_64_NESTED_PAGING.why_not("x86_64", ""), None);
    }

    #[test]
    fn every_host_is_tried_once_and_this_machines_kind_first() {
        let mut hosts: Vec<_> = all().unwrap().iter().map(|arch| arch.host).collect();
        assert_eq!(hosts[0], native().unwrap().host);
        hosts.sort_unstable();
        assert_eq!(hosts, ["aarch64-gicv2", "aarch64-gicv3", "x86_64"]);
    }
}
