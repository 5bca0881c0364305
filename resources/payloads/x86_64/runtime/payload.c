#include "payload.h"

#include <stdarg.h>

const uint8_t *boot_params;
static bool failed;

void put_char(char byte) { outb(COM1, byte); }

static void put_number(uint64_t value, unsigned base)
{
	char digits[20];
	int count = 0;
	do {
		digits[count++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value);
	while (count)
		put_char(digits[--count]);
}

static void put_text(const char *text)
{
	while (*text)
		put_char(*text++);
}

void print(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	for (; *format; format++) {
		if (*format != '%') {
			put_char(*format);
			continue;
		}
		format++;
		if (*format == 'l')
			format++;
		switch (*format) {
		case 's':
			put_text(va_arg(arguments, const char *));
			break;
		case 'c':
			put_char(va_arg(arguments, int));
			break;
		case 'u':
			put_number(va_arg(arguments, uint64_t), 10);
			break;
		case 'x':
			put_text("0x");
			put_number(va_arg(arguments, uint64_t), 16);
			break;
		}
	}
	va_end(arguments);
}

void check(bool passed, const char *name, uint64_t value)
{
	if (passed) {
		print("ok %s\n", name);
		return;
	}
	print("FAILED %s: %lx\n", name, value);
	failed = true;
}

_Noreturn void finish(void)
{
	if (failed)
		debug_exit(1);
	power_off();
}

_Noreturn void power_off(void)
{
	outw(PM1A_CNT, 0x2000); /* SLP_EN, sleep type 0 */
	halt_forever();
}

_Noreturn void debug_exit(uint8_t value)
{
	outb(DEBUG_EXIT, value);
	halt_forever();
}

_Noreturn void halt_forever(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* boot_params fields by offset: Linux, Documentation/arch/x86/zero-page.rst and boot.rst. */
static uint32_t boot_param32(size_t offset) { return *(const uint32_t *)(boot_params + offset); }

const char *command_line(void) { return (const char *)(uint64_t)boot_param32(0x228); }

uint64_t initrd_start(void) { return boot_param32(0x218); }

uint64_t initrd_size(void) { return boot_param32(0x21c); }

uint64_t e820_count(void) { return boot_params[0x1e8]; }

struct e820_entry e820(uint64_t index)
{
	const uint8_t *entry = boot_params + 0x2d0 + 20 * index;
	return (struct e820_entry){ *(const uint64_t *)entry, *(const uint64_t *)(entry + 8), *(const uint32_t *)(entry + 16) };
}

const char *option(const char *name)
{
	for (const char *text = command_line(); *text;) {
		const char *left = name;
		while (*left && *left == *text)
			left++, text++;
		if (!*left && *text == '=')
			return text + 1;
		while (*text && *text != ' ')
			text++;
		while (*text == ' ')
			text++;
	}
	return NULL;
}

static int digit(char text)
{
	if (text >= '0' && text <= '9')
		return text - '0';
	if (text >= 'a' && text <= 'f')
		return text - 'a' + 10;
	return 16;
}

uint64_t number_option(const char *name, uint64_t otherwise)
{
	const char *text = option(name);
	if (!text)
		return otherwise;
	int base = 10;
	if (text[0] == '0' && text[1] == 'x') {
		base = 16;
		text += 2;
	}
	uint64_t value = 0;
	for (; digit(*text) < base; text++)
		value = value * base + digit(*text);
	return value;
}

bool is_word(const char *text, const char *word)
{
	while (*word && *text == *word)
		text++, word++;
	return !*word && (!*text || *text == ' ');
}

bool same_bytes(const void *left, const void *right, size_t size)
{
	const uint8_t *a = left, *b = right;
	while (size && *a == *b)
		a++, b++, size--;
	return !size;
}

void map_gib(uint64_t address)
{
	enum { PRESENT_WRITABLE = 0x3, HUGE_PAGE = 0x80, TABLES = 8 };
	static uint64_t tables[TABLES][512] __attribute__((aligned(4096)));
	static int used;

	uint64_t cr3, gib = address >> 30;
	__asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
	uint64_t *pml4 = (uint64_t *)(cr3 & ~0xffful), *pdpt = (uint64_t *)(pml4[0] & ~0xffful);
	if (gib < 512 && pdpt[gib] & 1)
		return;
	if (gib >= 512 || used == TABLES) {
		print("FAILED map_gib: %lx\n", address);
		debug_exit(1);
	}
	uint64_t *table = tables[used++];
	for (uint64_t i = 0; i < 512; i++)
		table[i] = gib << 30 | i << 21 | HUGE_PAGE | PRESENT_WRITABLE;
	pdpt[gib] = (uint64_t)table | PRESENT_WRITABLE;
}

void set_handler(uint8_t vector, handler *function)
{
	static struct gate {
		uint16_t low, selector, flags, middle;
		uint32_t high, reserved;
	} idt[256];
	struct __attribute__((packed)) { uint16_t limit; uint64_t base; } pointer = { sizeof idt - 1, (uint64_t)idt };

	uint64_t target = (uint64_t)function;
	uint16_t selector;
	__asm__ volatile("mov %%cs, %0" : "=r"(selector));
	/* Present, 64-bit interrupt gate. */
	idt[vector] = (struct gate){ target, selector, 0x8e00, target >> 16, target >> 32, 0 };
	__asm__ volatile("lidt %0" : : "m"(pointer));
}

void enable_lapic(void)
{
	/* Where there is a PIC, it would raise the same interrupts a second time. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	map_gib(LAPIC);
	write32(LAPIC + 0x80, 0);     /* TPR: accept every priority */
	write32(LAPIC + 0xf0, 0x1ff); /* enabled, spurious vector 255 */
}

void route_pin(uint8_t pin, uint8_t vector)
{
	map_gib(IOAPIC);
	/* The high half first: the low one, unmasked, makes the entry live. */
	write32(IOAPIC, 0x11 + 2 * pin);
	write32(IOAPIC + 0x10, read32(LAPIC + 0x20) & 0xff000000);
	write32(IOAPIC, 0x10 + 2 * pin);
	write32(IOAPIC + 0x10, vector);
}

uint8_t byte_sum(const void *bytes, size_t size)
{
	const uint8_t *byte = bytes;
	uint8_t sum = 0;
	while (size--)
		sum += *byte++;
	return sum;
}

const uint8_t *find_rsdp(void)
{
	for (uint64_t address = 0xe0000; address < 0x100000; address += 16)
		if (same_bytes((const void *)address, "RSD PTR ", 8))
			return (const uint8_t *)address;
	return NULL;
}

const struct acpi_header *acpi_table(uint64_t index)
{
	const uint8_t *rsdp = find_rsdp();
	if (!rsdp)
		return NULL;
	const struct acpi_header *xsdt = *(const struct acpi_header *const *)(rsdp + 24);
	if (index >= (xsdt->length - sizeof *xsdt) / 8)
		return NULL;
	return *(const struct acpi_header *const *)((const uint8_t *)(xsdt + 1) + 8 * index);
}

const struct acpi_header *find_acpi_table(const char *signature)
{
	const struct acpi_header *table;
	for (uint64_t i = 0; (table = acpi_table(i)); i++)
		if (same_bytes(table->signature, signature, sizeof table->signature))
			return table;
	return NULL;
}
