/* Free low memory is zero, and every RAM region of the e820 table is there to its last word, each word only once. */
#include "payload.h"

static void check_zero(uint64_t start, uint64_t end)
{
	uint64_t at = start;
	while (at < end && read64(at) == 0)
		at += 8;
	check(at == end, "zero", at);
}

static void for_each_edge(void (*function)(uint64_t address))
{
	for (uint64_t i = 0; i < e820_count(); i++) {
		struct e820_entry entry = e820(i);
		/* The region at 1 MiB begins with this program; below it are the boot structures. */
		if (entry.type != E820_RAM || entry.start < 0x100000)
			continue;
		if (entry.start > 0x100000)
			function(entry.start);
		function(entry.start + entry.size - 8);
	}
}

static void write_edge(uint64_t address)
{
	map_gib(address);
	write64(address, ~address);
}

static void check_edge(uint64_t address)
{
	check(read64(address) == ~address, "edge", address);
	print("edge %lx\n", address);
}

void main(void)
{
	check_zero(0x1000, 0x7000);
	check_zero(0xc000, 0x20000);
	check_zero(0x90000, 0x9fc00);
	for_each_edge(write_edge);
	for_each_edge(check_edge);
	finish();
}
