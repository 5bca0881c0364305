/* Says where it runs, and that it was handed a device tree. */
#include "payload.h"

void main(uint64_t start)
{
	print("Hello from %lx\n", start);
	check(read32((uint64_t)device_tree) == 0xedfe0dd0, "device tree", (uint64_t)device_tree);
	check(read_register("CurrentEL") >> 2 == 1, "exception level", read_register("CurrentEL"));
}
