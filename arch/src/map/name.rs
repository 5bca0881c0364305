//! The names of rows.

use std::fmt;

use serde::{Serialize, Serializer};

/// Declares the names: a variant, and how it is printed.
macro_rules! names {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A row's name, by which all that reads a map asks for it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RowName {
            $($(#[$doc])* $variant,)*
        }

        impl RowName {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name that `carpel map` prints.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

names! {
    /// RAM below a PC's 32-bit hole.
    LowRam = "low_ram",
    /// A PC's RAM from 4 GiB on.
    HighRam = "high_ram",
    /// RAM where it is one region.
    Ram = "ram",
    /// Memory that devices share with the guest besides RAM; each region is printed by the name that it was given.
    Shm = "shm",
    /// Addresses below 4 GiB that are left to PCI.
    PciHole = "pci_hole",
    /// PCI configuration space, 64 KiB.
    PciCam = "pci_cam",
    /// PCI Express configuration space.
    PcieEcam = "pcie_ecam",
    /// Memory-mapped registers of PCI devices.
    PcieMmio = "pcie_mmio",
    /// Device windows of x86-64 `krun`.
    MmioWindow = "mmio_window",
    /// Device windows of x86-64 `crosvm`, below 4 GiB.
    LowMmio = "low_mmio",
    /// Addresses above RAM that are left to devices.
    HighMmio = "high_mmio",
    /// Device windows of aarch64 `crosvm`.
    Mmio = "mmio",
    /// Device windows of QEMU's `virt` machines.
    Virtio = "virtio",
    /// Addresses behind RAM for devices that share no bus.
    PlatformMmio = "platform_mmio",
    /// QEMU's platform bus.
    PlatformBus = "platform_bus",
    /// The last 112 MiB below a PC's firmware, with its chips in them.
    Reserved = "reserved",
    /// The region for firmware; on aarch64 `crosvm` the claim of its image.
    Firmware = "firmware",
    /// Flash memory, for firmware.
    Flash = "flash",
    /// Flash memory in which firmware keeps its variables.
    FlashVariables = "flash_variables",
    /// Firmware of protected virtual machines.
    PvmFirmware = "pvm_firmware",
    /// A boot ROM.
    BootRom = "boot_rom",
    /// A RISC-V core-local interruptor.
    Clint = "clint",
    /// A RISC-V platform-level interrupt controller.
    Plic = "plic",
    /// The first 16550 serial port of aarch64 `crosvm`.
    Serial0 = "serial0",
    /// The second.
    Serial1 = "serial1",
    /// The third.
    Serial2 = "serial2",
    /// The fourth.
    Serial3 = "serial3",
    /// The serial port of QEMU's `virt` machines.
    Uart = "uart",
    /// A real-time clock.
    Rtc = "rtc",
    /// General-purpose lines.
    Gpio = "gpio",
    /// crosvm's watchdog.
    Vmwdt = "vmwdt",
    /// crosvm's virtual CPU frequency.
    Virtfreq = "virtfreq",
    /// Paravirtual time: what the host took from each vCPU.
    Pvtime = "pvtime",
    /// The GIC's distributor in aarch64 `crosvm`.
    GicDist = "gic_dist",
    /// A GICv3's redistributors there.
    GicRedist = "gic_redist",
    /// A GICv2's CPU interfaces there.
    GicCpu = "gic_cpu",
    /// The GIC's distributor in aarch64 `virt`.
    Gicd = "gicd",
    /// A GICv3's redistributors there.
    Gicr = "gicr",
    /// A GICv2's CPU interfaces there.
    Gicc = "gicc",
    /// A GICv2's virtual CPU interfaces there.
    Gicv = "gicv",
    /// A GICv2's hypervisor interface there.
    Gich = "gich",
    /// The IOAPIC's registers.
    IoApic = "ioapic",
    /// A high precision event timer's registers.
    Hpet = "hpet",
    /// The local APICs' registers, and where message-signalled interrupts are written to.
    Lapic = "lapic",
    /// KVM's identity-mapped page table.
    IdentityMap = "identity_map",
    /// KVM's task state segment.
    Tss = "tss",
    /// A firmware image in its region.
    FirmwareImage = "firmware_image",
    /// The end of a PC's firmware image, below 1 MiB.
    FirmwareLow = "firmware_low",
    /// The global descriptor table.
    Gdt = "gdt",
    /// The interrupt descriptor table.
    Idt = "idt",
    /// Linux's `struct boot_params`.
    ZeroPage = "zero_page",
    /// A kernel's first stack.
    BootStack = "boot_stack",
    /// The top-level page table.
    Pml4 = "pml4",
    /// The page-directory-pointer table.
    Pdpte = "pdpte",
    /// The page directory.
    Pde = "pde",
    /// The kernel command line.
    Cmdline = "cmdline",
    /// Linux's `struct setup_data`.
    SetupData = "setup_data",
    /// What a Multiboot or PVH kernel is told.
    BootInfo = "boot_info",
    /// The extended BIOS data area, with a copy of the MP floating pointer.
    Ebda = "ebda",
    /// ACPI tables, the root pointer first.
    Acpi = "acpi",
    /// The MP table.
    MpTable = "mptable",
    /// The device tree.
    Fdt = "fdt",
    /// All that the kernel occupies until it has unpacked itself.
    Kernel = "kernel",
    /// The initial RAM disk.
    Initrd = "initrd",
    /// What kernels leave to a RISC-V SBI.
    SbiReserved = "sbi_reserved",
}

impl fmt::Display for RowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for RowName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
