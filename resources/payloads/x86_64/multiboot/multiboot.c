/*
 * Prints what the Multiboot information says, after overwriting the low memory that such kernels put their page tables and stacks
 * into: nothing that is still needed may lie there.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
	uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
};
struct module {
	uint32_t start, end, string, reserved;
};
struct memory {
	uint32_t size, start_low, start_high, length_low, length_high, type;
};

enum { COM1 = 0x3f8, PIC_MASK = 0x21, DEBUG_EXIT = 0xf4, PM1A_CNT = 0x604, BOOT_INFO = 0x80000, BOOT_INFO_END = 0x90000 };

static void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static void outw(uint16_t port, uint16_t value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }

static uint8_t inb(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void text(const char *text)
{
	while (*text)
		outb(COM1, *text++);
}

static void number(uint64_t value)
{
	text(" 0x");
	int shift = 60;
	while (shift && !(value >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		outb(COM1, "0123456789abcdef"[value >> shift & 15]);
}

static void fail(const char *what, uint64_t value)
{
	text("FAILED ");
	text(what);
	number(value);
	text("\n");
	outb(DEBUG_EXIT, 1);
}

/* A structure that the loader passed, which must lie where the map sets memory aside for such. */
static void *given(uint32_t address, uint32_t size)
{
	if (address < BOOT_INFO || address + size > BOOT_INFO_END)
		fail("place", address);
	return (void *)(uintptr_t)address;
}

static void overwrite(uint32_t start, uint32_t end)
{
	for (uint32_t at = start; at < end; at += 512)
		*(volatile uint32_t *)(uintptr_t)at = 0xdeadbeef;
}

static void named(const char *name, uint32_t string)
{
	text(name);
	text(" ");
	text(given(string, 1));
	text("\n");
}

static void show_modules(const struct info *info)
{
	const struct module *module = given(info->mods_addr, info->mods_count * sizeof *module);
	for (uint32_t i = 0; i < info->mods_count; i++, module++) {
		uint64_t sum = 0;
		for (uint32_t at = module->start; at < module->end; at++)
			sum = sum * 31 + *(const uint8_t *)(uintptr_t)at;
		text("module");
		number(module->start);
		number(module->end);
		number(sum);
		named("", module->string);
	}
}

static void show_memory(const struct info *info)
{
	const uint8_t *at = given(info->mmap_addr, info->mmap_length), *end = at + info->mmap_length;
	while (at < end) {
		const struct memory *memory = (const void *)at;
		uint64_t start = (uint64_t)memory->start_high << 32 | memory->start_low;
		uint64_t length = (uint64_t)memory->length_high << 32 | memory->length_low;
		text("memory");
		number(start);
		number(start + length);
		number(memory->type);
		text("\n");
		at += memory->size + 4;
	}
}

void main(uint32_t magic, uint32_t address, uint32_t cr0)
{
	static uint32_t bss[1024];

	overwrite(0x10000, 0x32000);
	overwrite(0x70000, 0x80000);
	if (magic != 0x2badb002)
		fail("magic", magic);
	/* Protection on, paging off. */
	if ((cr0 & 0x80000001) != 1)
		fail("cr0", cr0);
	for (size_t i = 0; i < sizeof bss / sizeof *bss; i++)
		if (((volatile uint32_t *)bss)[i])
			fail("bss", i);
	/* A mask register that keeps what is written: there is a PIC. */
	outb(PIC_MASK, 0xa5);
	if (inb(PIC_MASK) != 0xa5)
		fail("pic", inb(PIC_MASK));

	const struct info *info = given(address, sizeof *info);
	text("info");
	number(info->flags);
	number(info->mem_lower);
	number(info->mem_upper);
	text("\n");
	named("cmdline", info->cmdline);
	named("loader", info->boot_loader_name);
	show_modules(info);
	show_memory(info);
	text("end\n");
	outw(PM1A_CNT, 0x2000);
	for (;;)
		__asm__ volatile("hlt");
}
