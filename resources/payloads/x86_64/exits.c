/*
 * The cost of an exit, for the benchmark: `count=` reads of the port `port=` and of the MMIO address `mmio=`. The defaults are
 * COM1's scratch register and the IOAPIC's select register: devices, not holes.
 */
#include "payload.h"

void main(void)
{
	uint64_t count = number_option("count", 1000), mmio = number_option("mmio", IOAPIC);
	uint16_t port = number_option("port", COM1 + 7);
	map_gib(mmio);
	uint64_t start = rdtsc();
	for (uint64_t i = 0; i < count; i++)
		inb(port);
	uint64_t middle = rdtsc();
	for (uint64_t i = 0; i < count; i++)
		read32(mmio);
	uint64_t end = rdtsc();
	print("port %lu mmio %lu cycles per exit\n", (middle - start) / count, (end - middle) / count);
}
