#include "payload.h"

enum { MAX_CPUS = 64, STACK_SIZE = 4096 };

extern const uint8_t ap_trampoline[], ap_trampoline_end[], ap_cr3[];
uint8_t *volatile ap_stack;
void (*volatile ap_function)(void);

void send_ipi(uint8_t apic_id, uint32_t command)
{
	write32(LAPIC + 0x310, (uint32_t)apic_id << 24);
	write32(LAPIC + 0x300, command);
	while (read32(LAPIC + 0x300) & 0x1000) /* delivery pending */
		pause();
}

void start_cpu(uint8_t apic_id, uint8_t page, void (*function)(void))
{
	static uint8_t stacks[MAX_CPUS][STACK_SIZE] __attribute__((aligned(16)));
	static int used;

	uint8_t *target = (uint8_t *)((uint64_t)page << 12);
	for (int i = 0; i < ap_trampoline_end - ap_trampoline; i++)
		target[i] = ap_trampoline[i];
	uint64_t cr3;
	__asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
	*(volatile uint32_t *)(target + (ap_cr3 - ap_trampoline)) = cr3;
	if (used == MAX_CPUS)
		debug_exit(1);
	ap_stack = stacks[used++] + STACK_SIZE;
	ap_function = function;

	send_ipi(apic_id, INIT_IPI);
	send_ipi(apic_id, START_UP_IPI | page);
	send_ipi(apic_id, START_UP_IPI | page);
}
