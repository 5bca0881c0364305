/*
 * Writes all of 8 MiB of bss, which a flat image's file does not tell, and finds its device tree and its initial RAM disk as they
 * were: the latter is its own file.
 */
#include "payload.h"

enum { WORDS = 1 << 20, COMPARED = 64 };

static uint64_t large[WORDS];

void main(uint64_t start)
{
	print("Bss from %lx\n", start);
	uint64_t used = 0;
	for (int i = 0; i < WORDS; i++)
		used |= ((volatile uint64_t *)large)[i];
	check(used == 0, "bss is zero", used);
	for (int i = 0; i < WORDS; i++)
		((volatile uint64_t *)large)[i] = 0xaaaaaaaaaaaaaaaa;
	check(read32((uint64_t)device_tree) == 0xedfe0dd0, "device tree", (uint64_t)device_tree);
	uint64_t initrd = cells("/chosen", 0, "linux,initrd-start", 0);
	check(initrd > (uint64_t)large, "place of the initial RAM disk", initrd);
	int same = 0;
	while (same < COMPARED && read64(initrd + 8 * same) == read64(start + 8 * same))
		same++;
	check(same == COMPARED, "initial RAM disk", same);
}
