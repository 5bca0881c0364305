/* Starts every CPU of the MADT; each checks who it is. `page=` is where they start. */
#include "payload.h"

static volatile uint32_t online, wrong;

static void on_other_cpu(void)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;
	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	if (read32(LAPIC + 0x20) >> 24 != ebx >> 24)
		__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&online, 1, __ATOMIC_SEQ_CST);
}

void main(void)
{
	const struct acpi_header *madt = find_acpi_table("APIC");
	if (!madt)
		debug_exit(2);
	enable_lapic();
	uint8_t self = read32(LAPIC + 0x20) >> 24, page = number_option("page", 0x1);
	uint32_t expected = 0;
	/* Behind the header: the local APIC's address and flags, then the entries. */
	for (const uint8_t *entry = (const uint8_t *)(madt + 1) + 8; entry < (const uint8_t *)madt + madt->length; entry += entry[1]) {
		bool local_apic = entry[0] == 0, enabled = local_apic && entry[4] & 0x1;
		if (!enabled || entry[3] == self)
			continue;
		start_cpu(entry[3], page, on_other_cpu);
		expected++;
		while (online < expected)
			pause();
	}
	print("cpus %lu\n", (uint64_t)online + 1);
	check(!wrong, "apic-ids", wrong);
	finish();
}
