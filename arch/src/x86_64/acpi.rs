//! ACPI tables: RSDP, XSDT, FADT, MADT, FACS and DSDT, as one blob for the BIOS area.
//!
//! Source: ACPI Specification 6.3, the version that the FADT claims. The machine is not hardware-reduced: it has the
//! fixed registers below, so that stock kernels power off, reset and keep time without a driver for it.

use acpi_tables::Aml;
use acpi_tables::aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use thiserror::Error;

use super::devices::{ACPI_PM_PORTS, DsdtEntry, HardwareId, PcDevice, RESET_PORT, SCI_IRQ};
use super::mptable::ioapic_id;
use crate::device::{Device, DeviceKind, Place};

/// First port of the `PM1a_EVT` block: status, then enable, 2 bytes each (section 4.8.3.1).
const PM1A_EVENT_PORT: u16 = ACPI_PM_PORTS.start;
/// `PM1a_CNT`, 2 bytes (section 4.8.3.2). A write with bit 13 (`SLP_EN`) set and 0 in bits 12:10 (`SLP_TYP`) enters
/// S5.
const PM1A_CONTROL_PORT: u16 = PM1A_EVENT_PORT + 4;
/// Power management timer, 4 bytes, read-only: counts at 3.579545 MHz through all 32 bits (section 4.8.3.3).
const PM_TIMER_PORT: u16 = PM1A_EVENT_PORT + 8;
/// What resets the machine when written to [`RESET_PORT`]: full reset (bit 2) of the system (bit 1).
const RESET_VALUE: u8 = 0x06;

/// What the tables tell about a machine.
#[derive(Clone, Debug, Default)]
pub struct Platform<'a> {
    /// Processors, 1 to 64; their APIC IDs count from 0.
    pub cpus: u8,
    /// Guest physical address of the local APICs' registers.
    pub lapic: u32,
    /// Guest physical address of the IOAPIC's registers.
    pub ioapic: u32,
    /// There is a pair of 8259 PICs.
    pub pic: bool,
    /// The devices that they tell of; virtio devices are numbered in this order.
    pub devices: Vec<&'a Device>,
}

/// Why tables could not be built.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AcpiError {
    /// The tables end beyond their area.
    #[error("ACPI tables of {size} bytes at {base:#x} end beyond {end:#x}")]
    TooLarge {
        /// First address of the area.
        base: u64,
        /// First address after the area.
        end: u64,
        /// Size of the tables in bytes.
        size: usize,
    },
    /// Device names have room for three hexadecimal digits.
    #[error("{0} virtio-mmio devices, but ACPI names tell only {MAX_VIRTIO_MMIO} apart")]
    TooManyDevices(usize),
    /// A device that no PC has, or that is where its description cannot say.
    #[error("ACPI tables of a PC cannot describe the device `{0}`")]
    Device(&'static str),
}

/// The tables for guest physical addresses from `base` (a multiple of 64) to `end`, exclusive. The RSDP comes first.
pub fn build(base: u64, end: u64, platform: &Platform<'_>) -> Result<Vec<u8>, AcpiError> {
    let mut blob = Blob { base, bytes: vec![0; Rsdp::len()] };
    let facs = blob.place(&FACS::new());
    let dsdt = blob.place(&dsdt(platform)?);
    let fadt = blob.place(&fadt(facs, dsdt, platform));
    let madt = blob.place(&madt(platform));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = blob.place(&xsdt);

    let mut bytes = aml_bytes(&Rsdp::new(OEM_ID, xsdt));
    bytes.extend(&blob.bytes[Rsdp::len()..]);
    let size = bytes.len();
    if size as u64 > end.saturating_sub(base) {
        return Err(AcpiError::TooLarge { base, end, size });
    }
    Ok(bytes)
}

const OEM_ID: [u8; 6] = *b"CARPEL";
const OEM_TABLE_ID: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;

/// The FACS must start at a multiple of 64 (section 5.2.10); the others may start anywhere.
const TABLE_ALIGNMENT: usize = 64;
/// Names run from `V000` to `VFFF`.
const MAX_VIRTIO_MMIO: usize = 0x1000;

/// Tables one after the other, from a guest physical address on.
struct Blob {
    base: u64,
    bytes: Vec<u8>,
}

impl Blob {
    /// Appends a table; returns its guest physical address.
    fn place(&mut self, table: &dyn Aml) -> u64 {
        let offset = self.bytes.len().next_multiple_of(TABLE_ALIGNMENT);
        self.bytes.resize(offset, 0);
        table.to_aml_bytes(&mut self.bytes);
        self.base + offset as u64
    }
}

/// IAPC boot architecture flags, section 5.2.9.3. Two more stay clear: bit 1, since the keyboard controller only
/// resets and Linux would probe it for half a second, and bit 3, since message-signaled interrupts work.
const LEGACY_DEVICES: u16 = 1 << 0;
const VGA_NOT_PRESENT: u16 = 1 << 2;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;
/// Worst-case latencies in microseconds; beyond 100 and 1000 there is no C2 and no C3.
const NO_C2_LATENCY: u16 = 101;
const NO_C3_LATENCY: u16 = 1001;

fn fadt(facs: u64, dsdt: u64, platform: &Platform<'_>) -> FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .firmware_ctrl_64(facs)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // No power or sleep button, and no wake-up by the clock, in the fixed registers.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.fadt_minor_version = 3;
    // SeaBIOS looks for devices in the DSDT, and knows the 32-bit pointer only.
    fadt.dsdt = u32::try_from(dsdt).unwrap_or(0).into();
    // SMI_CMD stays 0: the machine starts in ACPI mode and knows no other.
    fadt.sci_int = u16::from(SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT_PORT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(PM1A_EVENT_PORT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL_PORT).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(PM1A_CONTROL_PORT, 16, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(PM_TIMER_PORT).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = port(PM_TIMER_PORT, 32, AccessSize::DwordAccess);
    fadt.p_lvl2_lat = NO_C2_LATENCY.into();
    fadt.p_lvl3_lat = NO_C3_LATENCY.into();
    fadt.reset_reg = port(RESET_PORT, 8, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    let has_clock = platform.devices.iter().any(|device| device.kind == DeviceKind::Pc(PcDevice::Cmos));
    let rtc = if has_clock { 0 } else { CMOS_RTC_NOT_PRESENT };
    fadt.iapc_boot_arch = (LEGACY_DEVICES | VGA_NOT_PRESENT | rtc).into();
    fadt.finalize()
}

fn port(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(port))
}

/// Revision of the MADT in ACPI 6.3.
const MADT_REVISION: u8 = 5;
/// A system description table's header (section 5.2.6).
const HEADER_SIZE: u32 = 36;
/// The MADT's fields after its header, and the flag that announces a pair of 8259s (section 5.2.12).
const MADT_LAPIC_OFFSET: usize = 36;
const MADT_FLAGS_OFFSET: usize = 40;
const MADT_FIXED_SIZE: u32 = 44;
const PCAT_COMPAT: u32 = 1 << 0;

/// Interrupt source override (section 5.2.12.5). The ISA's default is edge-triggered, but the SCI is level-triggered
/// (bits 3:2 = 3) and here active high (bits 1:0 = 1), as IOAPIC inputs of a virtual machine are.
///
/// No other line has one: IRQ n is GSI n, also for the timer, since KVM's default routing takes GSI 0 to pin 0.
/// Without a PIT there is no timer on it at all.
const SCI_OVERRIDE: [u8; 10] = [2, 10, 0, SCI_IRQ, SCI_IRQ, 0, 0, 0, 0b1101, 0];
/// Local APIC NMI (section 5.2.12.7): LINT1 of every processor.
const LINT1_NMI: [u8; 6] = [4, 6, 0xff, 0, 0, 1];

fn madt(platform: &Platform<'_>) -> Sdt {
    let mut entries = Vec::new();
    for id in 0..platform.cpus {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut entries);
    }
    IoApic::new(ioapic_id(platform.cpus), platform.ioapic, 0).to_aml_bytes(&mut entries);
    entries.extend(SCI_OVERRIDE);
    entries.extend(LINT1_NMI);

    let mut madt = Sdt::new(*b"APIC", MADT_FIXED_SIZE, MADT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(MADT_LAPIC_OFFSET, platform.lapic);
    madt.write_u32(MADT_FLAGS_OFFSET, if platform.pic { PCAT_COMPAT } else { 0 });
    madt.append_slice(&entries);
    madt
}

/// The revision from which integers in AML have 64 bits (section 5.2.11.1).
const DSDT_REVISION: u8 = 2;
/// Present, enabled, shown, functioning (section 6.3.7).
const STA_WORKING: u8 = 0x0f;

fn dsdt(platform: &Platform<'_>) -> Result<Sdt, AcpiError> {
    let is_virtio = |device: &&&Device| device.kind == DeviceKind::VirtioMmio;
    let virtio = platform.devices.iter().filter(is_virtio).count();
    if virtio > MAX_VIRTIO_MMIO {
        return Err(AcpiError::TooManyDevices(virtio));
    }
    let (mut devices, mut index) = (Vec::new(), 0);
    for device in &platform.devices {
        match device.kind {
            DeviceKind::Pc(kind) => {
                let entry = kind.dsdt(&device.place).map_err(|_| AcpiError::Device(device.name))?;
                if let Some(entry) = entry {
                    devices.extend(described(device, &entry)?);
                }
            }
            DeviceKind::VirtioMmio => {
                devices.extend(virtio_mmio(index, device)?);
                index += 1;
            }
            DeviceKind::Arm(_) => return Err(AcpiError::Device(device.name)),
        }
    }

    // S5 with SLP_TYP 0 in both control registers; the other two elements are reserved.
    let off = aml::Package::new(vec![&aml::ZERO, &aml::ZERO, &aml::ZERO, &aml::ZERO]);
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_SIZE, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&aml_bytes(&aml::Name::new("\\_S5_".into(), &off)));
    dsdt.append_slice(&aml::Scope::raw("\\_SB_".into(), devices));
    Ok(dsdt)
}

/// A device of a PC, by its entry. Those that are described have ports.
fn described(placed: &Device, entry: &DsdtEntry) -> Result<Vec<u8>, AcpiError> {
    let Place::Ports(range) = &placed.place else { return Err(AcpiError::Device(placed.name)) };
    let ports = aml::IO::new(range.start, range.start, 1, (range.end - range.start) as u8);
    let interrupt = placed.irq.map(|irq| edge_interrupt(irq, entry.shares_irq));
    let mut resources: Vec<&dyn Aml> = vec![&ports];
    resources.extend(interrupt.iter().map(|interrupt| interrupt as &dyn Aml));
    let number = entry.number.unwrap_or_default();
    let mut objects: Vec<(&str, &dyn Aml)> = Vec::new();
    if entry.number.is_some() {
        objects.push(("_UID", &number));
    }
    if entry.has_status {
        objects.push(("_STA", &STA_WORKING));
    }
    Ok(match entry.id {
        HardwareId::Eisa(id) => device(&entry.name, &aml::EISAName::new(id), &objects, resources),
        HardwareId::Text(id) => device(&entry.name, &id, &objects, resources),
    })
}

/// The identifier is the one that Linux's driver for the MMIO transport binds to (`drivers/virtio/virtio_mmio.c`).
fn virtio_mmio(index: usize, placed: &Device) -> Result<Vec<u8>, AcpiError> {
    let unfit = || AcpiError::Device(placed.name);
    let (range, irq) = placed.place.mmio().zip(placed.irq).ok_or_else(unfit)?;
    // The descriptor has 32 bits for each.
    let base = u32::try_from(range.start).map_err(|_| unfit())?;
    let len = u32::try_from(range.end - range.start).map_err(|_| unfit())?;
    let registers = aml::Memory32Fixed::new(true, base, len);
    Ok(device(
        &format!("V{index:03X}"),
        &"LNRO0005",
        &[("_UID", &index), ("_CCA", &aml::ONE)],
        vec![&registers, &edge_interrupt(irq, false)],
    ))
}

/// A device with its hardware ID, further named objects, and current resources.
fn device(name: &str, hid: &dyn Aml, objects: &[(&str, &dyn Aml)], resources: Vec<&dyn Aml>) -> Vec<u8> {
    let hid = aml::Name::new("_HID".into(), hid);
    let objects: Vec<aml::Name> = objects.iter().map(|(name, value)| aml::Name::new((*name).into(), *value)).collect();
    let resources = aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(resources));
    let mut children: Vec<&dyn Aml> = vec![&hid];
    children.extend(objects.iter().map(|object| object as &dyn Aml));
    children.push(&resources);
    aml_bytes(&aml::Device::new(name.into(), children))
}

/// An edge-triggered, active-high interrupt that the device consumes.
fn edge_interrupt(gsi: u32, shared: bool) -> aml::Interrupt {
    let (consumer, edge_triggered, active_low) = (true, true, false);
    aml::Interrupt::new(consumer, edge_triggered, active_low, shared, gsi)
}

fn aml_bytes(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::devices::ArmDevice;
    use std::ops::Range;

    const BASE: u64 = 0xe_0000;
    const END: u64 = 0xf_0000;

    fn pc(kind: PcDevice, ports: Range<u16>, irq: Option<u32>) -> Device {
        Device { kind: DeviceKind::Pc(kind), name: "device", place: Place::Ports(ports), irq }
    }

    fn window(n: u32) -> Device {
        let base = 0xd000_0000 + 0x1000 * u64::from(n);
        Device { kind: DeviceKind::VirtioMmio, name: "blk", place: Place::Mmio(base..base + 0x1000), irq: Some(5 + n) }
    }

    fn devices(virtio: u32) -> Vec<Device> {
        let mut devices = vec![
            pc(PcDevice::Serial, 0x3f8..0x400, Some(4)),
            pc(PcDevice::Serial, 0x3e8..0x3f0, Some(4)),
            pc(PcDevice::Cmos, 0x70..0x72, Some(8)),
            pc(PcDevice::PvPanic, 0x505..0x506, None),
        ];
        devices.extend((0..virtio).map(window));
        devices
    }

    fn platform(cpus: u8, devices: &[Device]) -> Platform<'_> {
        let devices = devices.iter().collect();
        Platform { cpus, lapic: 0xfee0_0000, ioapic: 0xfec0_0000, pic: true, devices }
    }

    fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        bytes[at..at + N].try_into().unwrap()
    }

    fn word(bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(field(bytes, at))
    }

    fn dword(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(field(bytes, at))
    }

    fn qword(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(field(bytes, at))
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// The table at a guest physical address, with the signature, and a checksum where the specification has one.
    fn table(blob: &[u8], address: u64, signature: [u8; 4]) -> &[u8] {
        let at = usize::try_from(address - BASE).unwrap();
        let table = &blob[at..at + dword(blob, at + 4) as usize];
        assert_eq!(table[..4], signature);
        if signature != *b"FACS" {
            assert_eq!(sum(table), 0, "checksum of {}", String::from_utf8_lossy(&signature));
        }
        table
    }

    /// A table found as a kernel finds it: through the RSDP and the XSDT.
    fn find(blob: &[u8], signature: [u8; 4]) -> &[u8] {
        let xsdt = table(blob, qword(blob, 24), *b"XSDT");
        let address = xsdt[36..]
            .chunks_exact(8)
            .map(|entry| qword(entry, 0))
            .find(|address| blob[usize::try_from(address - BASE).unwrap()..].starts_with(&signature));
        table(blob, address.unwrap(), signature)
    }

    fn dsdt_of(blob: &[u8]) -> &[u8] {
        table(blob, qword(find(blob, *b"FACP"), 140), *b"DSDT")
    }

    fn count(haystack: &[u8], needle: &[u8]) -> usize {
        haystack.windows(needle.len()).filter(|window| *window == needle).count()
    }

    #[test]
    fn a_kernel_finds_every_table_intact() {
        let blob = build(BASE, END, &platform(2, &devices(3))).unwrap();
        assert_eq!((&blob[..8], blob[15]), (&b"RSD PTR "[..], 2));
        assert_eq!((sum(&blob[..20]), sum(&blob[..36])), (0, 0));
        let fadt = find(&blob, *b"FACP");
        let facs = qword(fadt, 132);
        assert_eq!((table(&blob, facs, *b"FACS").len(), facs % 64), (64, 0));
        dsdt_of(&blob);
        find(&blob, *b"APIC");
    }

    #[test]
    fn the_largest_machine_fits_and_a_larger_one_is_refused() {
        assert!(build(BASE, END, &platform(64, &devices(17))).unwrap().len() <= 0x1_0000);
        let error = build(BASE, END, &platform(64, &devices(1000))).unwrap_err();
        assert!(matches!(error, AcpiError::TooLarge { base: BASE, end: END, size } if size > 0x1_0000), "{error}");
        let error = build(BASE, END, &platform(1, &devices(0x1001))).unwrap_err();
        assert_eq!(error, AcpiError::TooManyDevices(0x1001));
    }

    #[test]
    fn fadt_names_the_fixed_registers() {
        let blob = build(BASE, END, &platform(1, &devices(0))).unwrap();
        let fadt = find(&blob, *b"FACP");
        assert_eq!((fadt.len(), fadt[8], fadt[131]), (276, 6, 3));
        assert_eq!((word(fadt, 46), dword(fadt, 48)), (9, 0), "SCI and SMI_CMD");
        assert_eq!((dword(fadt, 56), fadt[88], qword(fadt, 152)), (0x600, 4, 0x600), "PM1a event");
        assert_eq!((dword(fadt, 64), fadt[89], qword(fadt, 176)), (0x604, 2, 0x604), "PM1a control");
        assert_eq!((dword(fadt, 76), fadt[91], qword(fadt, 212)), (0x608, 4, 0x608), "PM timer");
        assert_eq!((field(fadt, 116), qword(fadt, 120), fadt[128]), ([1, 8, 0, 1], 0xcf9, 6), "reset");
        // Wbinvd 0, C1 2, no buttons 4 and 5, no RTC wake-up 6, 32-bit timer 8, reset register 10; not
        // hardware-reduced (20).
        assert_eq!(dword(fadt, 112), 0b101_0111_0101);
        assert_eq!(word(fadt, 109), 0b101, "legacy devices, no VGA, no 8042");
    }

    #[test]
    fn a_device_that_cannot_be_described_is_an_error() {
        let arm = Device { kind: DeviceKind::Arm(ArmDevice::Pl031), ..window(0) };
        let high = Device { place: Place::Mmio(1 << 32..(1 << 32) + 0x1000), ..window(0) };
        let silent = Device { irq: None, ..window(0) };
        for odd in [arm, high, silent, pc(PcDevice::Serial, 0x3f0..0x3f8, Some(4))] {
            let error = build(BASE, END, &platform(1, std::slice::from_ref(&odd))).unwrap_err();
            assert_eq!(error, AcpiError::Device(odd.name), "{odd:?}");
        }
    }

    #[test]
    fn an_absent_clock_is_told_in_the_fadt() {
        let devices = devices(0);
        let mut platform = platform(1, &devices);
        platform.devices.retain(|device| device.kind != DeviceKind::Pc(PcDevice::Cmos));
        let blob = build(BASE, END, &platform).unwrap();
        assert_eq!(word(find(&blob, *b"FACP"), 109), 0b10_0101);
        assert_eq!(count(dsdt_of(&blob), b"RTC_"), 0);
    }

    #[test]
    fn madt_lists_processors_ioapic_and_lines() {
        let blob = build(BASE, END, &platform(2, &devices(0))).unwrap();
        let madt = find(&blob, *b"APIC");
        assert_eq!((dword(madt, 36), dword(madt, 40)), (0xfee0_0000, 1));
        let expected: &[&[u8]] = &[
            &[0, 8, 0, 0, 1, 0, 0, 0],
            &[0, 8, 1, 1, 1, 0, 0, 0],
            &[1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0],
            &[4, 6, 0xff, 0, 0, 1],
        ];
        assert_eq!(madt[44..], expected.concat());
        let blob = build(BASE, END, &Platform { pic: false, ..platform(2, &devices(0)) }).unwrap();
        assert_eq!(dword(find(&blob, *b"APIC"), 40), 0, "no PIC, no PCAT_COMPAT");
    }

    #[test]
    fn power_off_is_sleep_type_zero() {
        let blob = build(BASE, END, &platform(1, &devices(0))).unwrap();
        let s5 = b"\x08\\_S5_\x12\x06\x04\x00\x00\x00\x00";
        assert_eq!(count(dsdt_of(&blob), s5), 1);
    }

    #[test]
    fn devices_stand_in_the_dsdt_with_their_resources() {
        let blob = build(BASE, END, &platform(1, &devices(2))).unwrap();
        let dsdt = dsdt_of(&blob);
        let once: [&[u8]; 9] = [
            b"COM1\x08_HID\x0c\x41\xd0\x05\x01\x08_UID\x01",
            b"COM3\x08_HID\x0c\x41\xd0\x05\x01\x08_UID\x0a\x03",
            b"\x47\x01\xf8\x03\xf8\x03\x01\x08\x89\x06\x00\x0b\x01\x04\x00\x00\x00\x79",
            b"RTC_\x08_HID\x0c\x41\xd0\x0b\x00",
            b"\x47\x01\x70\x00\x70\x00\x01\x02\x89\x06\x00\x03\x01\x08\x00\x00\x00\x79",
            b"PEVT\x08_HID\x0dQEMU0001\x00\x08_STA\x0a\x0f\x08_CRS",
            b"\x47\x01\x05\x05\x05\x05\x01\x01\x79",
            b"V001\x08_HID\x0dLNRO0005\x00\x08_UID\x01\x08_CCA\x01\x08_CRS",
            b"\x86\x09\x00\x01\x00\x10\x00\xd0\x00\x10\x00\x00\x89\x06\x00\x03\x01\x06\x00\x00\x00\x79",
        ];
        for bytes in once {
            assert_eq!(count(dsdt, bytes), 1, "{}", bytes.escape_ascii());
        }
        assert_eq!((count(dsdt, b"COM2"), count(dsdt, b"COM4"), count(dsdt, b"V002")), (0, 0, 0));
    }
}
