/* Prints what the boot protocol handed over: command line, e820 table, and the initrd with the sum of its 64-bit words. */
#include "payload.h"

/* One instruction for each word: the KVM that this runs on may take a microsecond for one. */
static uint64_t word_sum(uint64_t start, uint64_t size)
{
	enum { UNROLLED = 512 };
	uint64_t sum = 0, at = start, end = start + size;
	for (; at + 8 * UNROLLED <= end; at += 8 * UNROLLED) {
		map_gib(at + 8 * UNROLLED - 8);
		__asm__("i = 0\n.rept %c2\nadd i(%1), %0\ni = i + 8\n.endr" : "+r"(sum) : "r"(at), "i"(UNROLLED) : "memory");
	}
	for (; at < end; at += 8)
		sum += read64(at);
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
