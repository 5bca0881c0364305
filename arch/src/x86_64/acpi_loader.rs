//! ACPI tables for firmware that places them itself: the tables with offsets for addresses, and a script that tells which
//! offsets become addresses and which checksums follow.
//!
//! Source: QEMU, hw/acpi/bios-linker-loader.c; each command has 128 bytes, little endian.

use super::acpi::{self, AcpiError, Platform};

/// The tables' file.
pub const TABLES: &str = "etc/acpi/tables";
/// The root pointer's file.
pub const RSDP: &str = "etc/acpi/rsdp";
/// The script's file.
pub const LOADER: &str = "etc/table-loader";

const COMMAND_SIZE: usize = 128;
const NAME_SIZE: usize = 56;
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
/// Where to allocate: high memory, or the BIOS segment, which is searched for the root pointer.
const ZONE_HIGH: u8 = 1;
const ZONE_BIOS: u8 = 2;
/// The FACS wants 64, the root pointer 16.
const TABLES_ALIGNMENT: u32 = 64;
const RSDP_ALIGNMENT: u32 = 16;

/// The root pointer (ACPI 6.3, section 5.2.5.3): size, the part that its first checksum covers, the checksums, the XSDT.
const RSDP_SIZE: usize = 36;
const RSDP_OLD_SIZE: u32 = 20;
const RSDP_CHECKSUM: u32 = 8;
const RSDP_EXTENDED_CHECKSUM: u32 = 32;
const RSDP_XSDT: u32 = 24;
/// A table's header (section 5.2.6).
const TABLE_LENGTH: usize = 4;
const TABLE_CHECKSUM: u32 = 9;
const HEADER_SIZE: usize = 36;
/// The FADT's pointers: 32 bits to the DSDT, 64 to FACS and DSDT (section 5.2.9); each with its size in bytes.
const FADT_POINTERS: [(u32, u8); 3] = [(40, 4), (132, POINTER_SIZE), (140, POINTER_SIZE)];
/// All others.
const POINTER_SIZE: u8 = 8;

/// The three files with their names.
pub fn files(platform: &Platform<'_>) -> Result<[(&'static str, Vec<u8>); 3], AcpiError> {
    let mut tables = acpi::build(0, u32::MAX.into(), platform)?;
    let rsdp = tables[..RSDP_SIZE].to_vec();
    // A guest that searches for the root pointer must not find this one, which no command completes: qboot puts the tables where
    // guests search.
    tables[..RSDP_SIZE].fill(0);
    let mut script = Vec::new();
    script.extend(command(ALLOCATE, &[TABLES], &[&TABLES_ALIGNMENT.to_le_bytes(), &[ZONE_HIGH]]));
    script.extend(command(ALLOCATE, &[RSDP], &[&RSDP_ALIGNMENT.to_le_bytes(), &[ZONE_BIOS]]));

    let xsdt = word(&rsdp, RSDP_XSDT as usize);
    for entry in (xsdt + HEADER_SIZE..xsdt + length(&tables, xsdt)).step_by(POINTER_SIZE.into()) {
        let table = word(&tables, entry);
        if &tables[table..table + 4] == b"FACP" {
            for (offset, size) in FADT_POINTERS {
                script.extend(pointer(TABLES, table as u32 + offset, size));
            }
            script.extend(checksum(TABLES, table as u32 + TABLE_CHECKSUM, table as u32, length(&tables, table) as u32));
        }
        script.extend(pointer(TABLES, entry as u32, POINTER_SIZE));
    }
    script.extend(checksum(TABLES, xsdt as u32 + TABLE_CHECKSUM, xsdt as u32, length(&tables, xsdt) as u32));
    script.extend(pointer(RSDP, RSDP_XSDT, POINTER_SIZE));
    script.extend(checksum(RSDP, RSDP_CHECKSUM, 0, RSDP_OLD_SIZE));
    script.extend(checksum(RSDP, RSDP_EXTENDED_CHECKSUM, 0, RSDP_SIZE as u32));
    Ok([(TABLES, tables), (RSDP, rsdp), (LOADER, script)])
}

/// The value of `size` bytes at `offset` in `file` gets the address of the tables added.
fn pointer(file: &str, offset: u32, size: u8) -> Vec<u8> {
    command(ADD_POINTER, &[file, TABLES], &[&offset.to_le_bytes(), &[size]])
}

/// The byte at `offset` becomes such that `length` bytes from `start` on add up to 0.
fn checksum(file: &str, offset: u32, start: u32, length: u32) -> Vec<u8> {
    command(ADD_CHECKSUM, &[file], &[&offset.to_le_bytes(), &start.to_le_bytes(), &length.to_le_bytes()])
}

fn command(code: u32, files: &[&str], values: &[&[u8]]) -> Vec<u8> {
    let mut bytes = code.to_le_bytes().to_vec();
    for file in files {
        bytes.extend(file.as_bytes());
        bytes.resize(bytes.len() + NAME_SIZE - file.len(), 0);
    }
    bytes.extend(values.concat());
    bytes.resize(COMMAND_SIZE, 0);
    bytes
}

/// The low half of a 64-bit offset in tables of our own making.
fn word(tables: &[u8], at: usize) -> usize {
    u32::from_le_bytes([tables[at], tables[at + 1], tables[at + 2], tables[at + 3]]) as usize
}

fn length(tables: &[u8], table: usize) -> usize {
    word(tables, table + TABLE_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES_AT: u64 = 0x3ff_0000;

    /// Does as firmware would, with the tables at an address of its choice.
    fn run(script: &[u8], tables: &mut [u8], rsdp: &mut [u8]) {
        for command in script.chunks(COMMAND_SIZE) {
            let number = |at: usize| u32::from_le_bytes(command[at..at + 4].try_into().unwrap()) as usize;
            let file = if command[4..].starts_with(b"etc/acpi/tables\0") { &mut *tables } else { &mut *rsdp };
            match number(0) {
                1 => assert!(command[64] == 1 || command[64] == 2),
                2 => {
                    let at = number(116);
                    assert_eq!(&command[60..76], b"etc/acpi/tables\0");
                    let size = usize::from(command[120]);
                    let mut value = [0; 8];
                    value[..size].copy_from_slice(&file[at..at + size]);
                    let value = u64::from_le_bytes(value) + TABLES_AT;
                    file[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
                }
                3 => {
                    let (at, start, len) = (number(60), number(64), number(68));
                    let sum = file[start..start + len].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                    file[at] = file[at].wrapping_sub(sum);
                }
                code => panic!("Command {code}"),
            }
        }
    }

    #[test]
    fn the_script_makes_the_tables_that_are_built_for_an_address() {
        let platform = Platform { cpus: 2, lapic: 0xfee0_0000, ioapic: 0xfec0_0000, ..Platform::default() };
        let [(_, mut tables), (_, mut rsdp), (_, script)] = files(&platform).unwrap();
        assert!(!tables.windows(8).any(|bytes| bytes == b"RSD PTR "), "The root pointer is in its own file only");
        run(&script, &mut tables, &mut rsdp);
        let expected = acpi::build(TABLES_AT, u32::MAX.into(), &platform).unwrap();
        assert_eq!(rsdp, expected[..RSDP_SIZE]);
        assert_eq!(tables[RSDP_SIZE..], expected[RSDP_SIZE..]);
    }
}
