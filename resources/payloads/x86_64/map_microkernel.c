/*
 * The map of a microkernel that starts its CPUs by hand: a trampoline at 0x5000 with its GDT register at 0x6000, an image from 1 MiB
 * to 80 MiB, all of the first 4 GiB a second time from 0xFFFF_8000_0000_0000 on. It finds the CPUs by the MP table, whose pointer it
 * looks for in 0xF_0000-0x10_0000 only. `cpus=` is how many there must be.
 */
#include "payload.h"

enum { TRAMPOLINE = 0x5000, GDT_REGISTER = 0x6000, CR3 = 0x6008, STACK = 0x6010, IMAGE_END = 0x5000000 };
#define STRAIGHT_MAP 0xffff800000000000ul

extern const uint8_t trampoline[], trampoline_end[];
static uint64_t gdt[] __attribute__((used)) = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
static volatile uint32_t online, wrong_ids;
/* From here the image reaches to its end at 80 MiB, but for what the linker puts behind it. */
static uint8_t heap[IMAGE_END - 0x200000];

__asm__(".pushsection .text.trampoline, \"ax\"\n"
	".globl trampoline, trampoline_end\n"
	".code16\n"
	"trampoline:\n"
	"	cli\n"
	"	xor %ax, %ax\n"
	"	mov %ax, %ds\n"
	"	lgdtl 0x6000\n"
	"	mov $0x20, %eax\n"
	"	mov %eax, %cr4\n"
	"	mov 0x6008, %eax\n"
	"	mov %eax, %cr3\n"
	"	mov $0xc0000080, %ecx\n"
	"	rdmsr\n"
	"	or $0x100, %eax\n"
	"	wrmsr\n"
	"	mov $0x80000011, %eax\n"
	"	mov %eax, %cr0\n"
	"	ljmpl $0x8, $ap_entry\n"
	"trampoline_end:\n"
	".code64\n"
	"ap_entry:\n"
	"	mov $0x10, %eax\n"
	"	mov %eax, %ds\n"
	"	mov %eax, %es\n"
	"	mov %eax, %ss\n"
	"	mov 0x6010, %rsp\n"
	"	call ap_main\n"
	".popsection");

static uint8_t lapic_id(void) { return read32(LAPIC + 0x20) >> 24; }

__attribute__((used, noreturn)) static void ap_main(void)
{
	/* Through the kernel's own map, as it would after its start. */
	if (read32(STRAIGHT_MAP + LAPIC + 0x20) >> 24 != lapic_id())
		wrong_ids++;
	online++;
	halt_forever();
}

static void map_straight(void)
{
	for (uint64_t gib = 0; gib < 4; gib++)
		map_gib(gib << 30);
	uint64_t cr3;
	__asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
	uint64_t *pml4 = (uint64_t *)cr3;
	pml4[256] = pml4[0];
	check(read64(STRAIGHT_MAP + 0x100000) == read64(0x100000), "straight-map", read64(STRAIGHT_MAP + 0x100000));
}

static void prepare_trampoline(void)
{
	uint8_t *target = (uint8_t *)TRAMPOLINE;
	for (int i = 0; i < trampoline_end - trampoline; i++)
		target[i] = trampoline[i];
	*(volatile uint16_t *)GDT_REGISTER = sizeof gdt - 1;
	*(volatile uint32_t *)(GDT_REGISTER + 2) = (uint64_t)gdt;
	uint64_t cr3;
	__asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
	write64(CR3, cr3);
}

static void start(uint8_t apic_id)
{
	static uint8_t *stack_end = heap + 0x10000;
	uint32_t expected = online + 1;
	write64(STACK, (uint64_t)stack_end);
	stack_end += 0x10000;
	send_ipi(apic_id, INIT_IPI);
	send_ipi(apic_id, START_UP_IPI | TRAMPOLINE >> 12);
	send_ipi(apic_id, START_UP_IPI | TRAMPOLINE >> 12);
	while (online < expected)
		pause();
}

static const uint8_t *find_mp_pointer(void)
{
	for (uint64_t address = 0xf0000; address < 0x100000; address += 16)
		if (same_bytes((const void *)address, "_MP_", 4) && byte_sum((const void *)address, 16) == 0)
			return (const uint8_t *)address;
	return NULL;
}

static uint64_t start_cpus(const uint8_t *table)
{
	uint64_t cpus = 0;
	const uint8_t *entry = table + 44;
	for (uint16_t i = *(const uint16_t *)(table + 34); i; i--) {
		bool processor = entry[0] == 0;
		if (processor && entry[3] & 0x1) {
			cpus++;
			if (entry[1] != lapic_id())
				start(entry[1]);
		}
		entry += processor ? 20 : 8;
	}
	return cpus;
}

void main(void)
{
	uint64_t cpus = number_option("cpus", 4);
	const uint8_t *pointer = find_mp_pointer();
	if (!pointer) {
		check(false, "mp-pointer", 0);
		finish();
	}
	const uint8_t *table = (const uint8_t *)(uint64_t)read32((uint64_t)pointer + 4);
	map_straight();
	enable_lapic();
	prepare_trampoline();
	uint64_t listed = start_cpus(table);
	check(listed == cpus && online == cpus - 1, "cpus", online);
	check(!wrong_ids, "apic-ids", wrong_ids);
	heap[sizeof heap - 1] = 1;
	write64(IMAGE_END - 8, ~0ul);
	write64(IMAGE_END, IMAGE_END);
	check(read64(IMAGE_END - 8) == ~0ul && read64(IMAGE_END) == IMAGE_END, "image-end", read64(IMAGE_END));
	finish();
}
