/*
 * The map of a BIOS-era exokernel: the first 4 GiB identity-mapped in pages of 2 MiB, its tables and information where its programs
 * expect them, its kernel's data from 0x11_0000 to 64 MiB. It overwrites nearly all of low memory and must then still find the
 * machine's tables.
 */
#include "payload.h"

enum { PML4 = 0x2000, PDPT = 0x3000, INFORMATION = 0x5000, MEMORY_MAP = 0x6000, LOADER = 0x8000, DIRECTORIES = 0x10000 };
enum { STACK_TOP = 0x80000, MP_POINTER = 0xf0000, PAGE = 0x1000, PRESENT_WRITABLE = 0x3, LARGE_PAGE = 0x80 };
#define LARGE_PAGE_SIZE (2ul << 20)

/* What it fills besides the tables: start and end of each range. */
static const uint32_t ranges[][2] = {
	{ 0x8000, 0x10000 },    /* loader */
	{ 0x14000, 0x32000 },   /* page tables behind those of the first 4 GiB */
	{ 0x70000, 0x7f000 },   /* stack, but for the part in use */
	{ 0x1e0000, 0x1e8000 }, /* payload; kernel variables and scheduler queue lie in this program's own memory */
	{ 0x2d8000, 0x2e0000 },
	{ 0x400000, 0x410000 },   /* command queue */
	{ 0x800000, 0x810000 },   /* first and last task stack */
	{ 0xff0000, 0x1000000 },
	{ 0x1000000, 0x1010000 }, /* DMA pool */
	{ 0x1ff0000, 0x2000000 },
	{ 0x2000000, 0x2010000 }, /* bitmap */
	{ 0x3ff0000, 0x4000000 },
};

static void build_tables(void)
{
	volatile uint64_t *pml4 = (volatile uint64_t *)PML4, *pdpt = (volatile uint64_t *)PDPT;
	volatile uint64_t *directories = (volatile uint64_t *)DIRECTORIES;
	for (int i = 0; i < 512; i++)
		pml4[i] = pdpt[i] = 0;
	pml4[0] = PDPT | PRESENT_WRITABLE;
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (DIRECTORIES + i * PAGE) | PRESENT_WRITABLE;
	for (uint64_t i = 0; i < 4 * 512; i++)
		directories[i] = i * LARGE_PAGE_SIZE | LARGE_PAGE | PRESENT_WRITABLE;
	__asm__ volatile("mov %0, %%cr3" : : "r"((uint64_t)PML4) : "memory");
}

/* The tables take the place of the command line, so what boot handed over is copied first. */
static void copy_information(void)
{
	uint64_t memory = 0;
	volatile struct e820_entry *copy = (volatile struct e820_entry *)MEMORY_MAP;
	for (uint64_t i = 0; i < e820_count(); i++) {
		struct e820_entry entry = e820(i);
		copy[i].start = entry.start;
		copy[i].size = entry.size;
		copy[i].type = entry.type;
		memory += entry.type == E820_RAM ? entry.size : 0;
	}
	write64(INFORMATION + 0x10, memory);
	write64(INFORMATION + 0x20, e820_count());
}

static void fill(void)
{
	for (size_t range = 0; range < sizeof ranges / sizeof *ranges; range++)
		for (uint64_t address = ranges[range][0]; address < ranges[range][1]; address += 512)
			write64(address, ~address);
}

static void check_filled(void)
{
	for (size_t range = 0; range < sizeof ranges / sizeof *ranges; range++) {
		uint64_t address = ranges[range][0];
		while (address < ranges[range][1] && read64(address) == ~address)
			address += 512;
		check(address == ranges[range][1], "filled", address);
	}
}

static void check_identity_map(void)
{
	write32(IOAPIC, 1);
	uint32_t pins = read32(IOAPIC + 0x10) >> 16 & 0xff;
	check(pins == 23, "ioapic", pins);
	write64(INFORMATION + 0x40, read32(LAPIC + 0x20) >> 24);
	check(read64(INFORMATION + 0x40) == 0, "bsp-apic-id", read64(INFORMATION + 0x40));
	/* Nothing is in the hole, and both ends of it are mapped. */
	check(read32(0xf3fff000) == 0xffffffff && read32(0xfed00000) == 0xffffffff, "hole", read32(0xf3fff000));
	/* The last page of all is mapped too; without firmware, nothing is there. */
	check(read64(0xfffffff8) == ~0ul, "end-of-4-gib", read64(0xfffffff8));
}

static void check_tables(void)
{
	const uint8_t *table = (const uint8_t *)(uint64_t)read32(MP_POINTER + 4);
	check(byte_sum((const void *)MP_POINTER, 16) == 0 && byte_sum(table, *(const uint16_t *)(table + 4)) == 0, "mp-table",
	      (uint64_t)table);
	const uint8_t *rsdp = find_rsdp();
	check(rsdp && byte_sum(rsdp, 36) == 0, "rsdp", (uint64_t)rsdp);
	const struct acpi_header *madt = find_acpi_table("APIC");
	check(madt && byte_sum(madt, madt->length) == 0, "madt", (uint64_t)madt);
	print("memory %lx entries %lu\n", read64(INFORMATION + 0x10), read64(INFORMATION + 0x20));
}

__attribute__((used, noreturn)) static void main_on_own_stack(void)
{
	fill();
	check_filled();
	check_identity_map();
	check_tables();
	finish();
}

void main(void)
{
	copy_information();
	build_tables();
	__asm__ volatile("mov %0, %%rsp; call main_on_own_stack" : : "i"(STACK_TOP) : "memory");
	__builtin_unreachable();
}
