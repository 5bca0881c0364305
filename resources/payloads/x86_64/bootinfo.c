/* Prints what the boot protocol handed over: command line, e820 table, and the initrd with the sum of its 64-bit words. */
#include "payload.h"

static uint64_t word_sum(uint64_t start, uint64_t size)
{
	uint64_t sum = 0;
	for (uint64_t at = start; at < start + size; at += 8) {
		if (!(at & ((1ul << 30) - 1)) || at == start)
			map_gib(at);
		sum += read64(at);
	}
	return sum;
}

void main(void)
{
	print("cmdline: %s\n", command_line());
	for (uint64_t i = 0; i < e820_count(); i++) {
		struct e820_entry entry = e820(i);
		print("e820 %lx %lx %lu\n", entry.start, entry.start + entry.size, (uint64_t)entry.type);
	}
	if (initrd_size())
		print("initrd %lx %lx %lx\n", initrd_start(), initrd_size(), word_sum(initrd_start(), initrd_size()));
	print("end\n");
}
