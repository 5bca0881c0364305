/* Checks the ACPI and MP tables as a kernel finds them, and prints their names and CPU counts. */
#include "payload.h"

static void check_table(const char *name, const struct acpi_header *table)
{
	check(byte_sum(table, table->length) == 0, name, (uint64_t)table);
	print("table %c%c%c%c\n", table->signature[0], table->signature[1], table->signature[2], table->signature[3]);
}

static void count_virtio_nodes(const struct acpi_header *dsdt)
{
	uint64_t nodes = 0;
	for (const char *text = (const char *)dsdt; text + 8 <= (const char *)dsdt + dsdt->length; text++)
		nodes += same_bytes(text, "LNRO0005", 8);
	print("virtio %lu\n", nodes);
}

static void check_acpi(void)
{
	const uint8_t *rsdp = find_rsdp();
	if (!rsdp) {
		check(false, "rsdp", 0);
		return;
	}
	check((uint64_t)rsdp == 0xe0000, "rsdp-address", (uint64_t)rsdp);
	check(*(const uint64_t *)(boot_params + 0x70) == (uint64_t)rsdp, "rsdp-in-boot-params", *(const uint64_t *)(boot_params + 0x70));
	check(byte_sum(rsdp, 20) == 0 && byte_sum(rsdp, 36) == 0, "rsdp-sums", byte_sum(rsdp, 36));
	check_table("xsdt", *(const struct acpi_header *const *)(rsdp + 24));
	const struct acpi_header *table;
	for (uint64_t i = 0; (table = acpi_table(i)); i++)
		check_table("table", table);
	const uint8_t *fadt = (const uint8_t *)find_acpi_table("FACP");
	if (fadt) { /* X_DSDT */
		const struct acpi_header *dsdt = *(const struct acpi_header *const *)(fadt + 140);
		check_table("dsdt", dsdt);
		count_virtio_nodes(dsdt);
	}
}

static void count_madt_cpus(void)
{
	const struct acpi_header *madt = find_acpi_table("APIC");
	if (!madt) {
		check(false, "madt", 0);
		return;
	}
	uint64_t cpus = 0;
	for (const uint8_t *entry = (const uint8_t *)(madt + 1) + 8; entry < (const uint8_t *)madt + madt->length; entry += entry[1])
		cpus += entry[0] == 0 && entry[4] & 0x1;
	print("madt cpus %lu\n", cpus);
}

static void check_mp(void)
{
	const uint8_t *pointer = (const uint8_t *)0xf0000;
	if (!same_bytes(pointer, "_MP_", 4)) {
		check(false, "mp-pointer", 0);
		return;
	}
	check(byte_sum(pointer, 16) == 0, "mp-pointer-sum", byte_sum(pointer, 16));
	check(same_bytes(pointer, (const void *)0x9fc00, 16), "mp-pointer-in-ebda", read32(0x9fc00));
	const uint8_t *table = (const uint8_t *)(uint64_t)read32((uint64_t)pointer + 4);
	check(same_bytes(table, "PCMP", 4) && byte_sum(table, *(const uint16_t *)(table + 4)) == 0, "mp-table", (uint64_t)table);
	uint64_t cpus = 0;
	/* A processor entry (type 0) has 20 bytes, every other one 8. */
	const uint8_t *entry = table + 44;
	for (uint16_t i = *(const uint16_t *)(table + 34); i; i--) {
		cpus += entry[0] == 0;
		entry += entry[0] == 0 ? 20 : 8;
	}
	print("mp cpus %lu\n", cpus);
}

void main(void)
{
	check_acpi();
	count_madt_cpus();
	check_mp();
	finish();
}
