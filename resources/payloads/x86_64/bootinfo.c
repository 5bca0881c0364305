/* Prints what the boot protocol handed over: command line, e820 table, and the initrd with a checksum. */
#include "payload.h"

enum { BLOCK_WORDS = 512 };

/*
 * Of all whole blocks, in Horner's scheme so that their order counts: checksum * 31 + the sum of a block's 64-bit words. One
 * instruction for each word: the KVM that this runs on may take a microsecond for one.
 */
static uint64_t checksum(uint64_t start, uint64_t size)
{
	uint64_t checksum = 0;
	for (uint64_t at = start; at + 8 * BLOCK_WORDS <= start + size; at += 8 * BLOCK_WORDS) {
		checksum *= 31;
		map_gib(at + 8 * BLOCK_WORDS - 8);
		__asm__("i = 0\n.rept %c2\nadd i(%1), %0\ni = i + 8\n.endr" : "+r"(checksum) : "r"(at), "i"(BLOCK_WORDS) : "memory");
	}
	return checksum;
}

void main(void)
{
	print("cmdline: %s\n", command_line());
	for (uint64_t i = 0; i < e820_count(); i++) {
		struct e820_entry entry = e820(i);
		print("e820 %lx %lx %lu\n", entry.start, entry.start + entry.size, (uint64_t)entry.type);
	}
	if (initrd_size())
		print("initrd %lx %lx %lx\n", initrd_start(), initrd_size(), checksum(initrd_start(), initrd_size()));
	print("end\n");
}
