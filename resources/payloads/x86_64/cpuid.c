/* Prints what CPUID says of this CPU: `leaf=` and `index=` on the command line. */
#include "payload.h"

void main(void)
{
	uint32_t eax = number_option("leaf", 0), ebx, ecx = number_option("index", 0), edx;
	__asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	print("cpuid %lx %lx %lx %lx\n", (uint64_t)eax, (uint64_t)ebx, (uint64_t)ecx, (uint64_t)edx);
}
