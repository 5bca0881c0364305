/* The machine's small devices, and what is not there: unmapped reads give all ones, whatever their width. */
#include "payload.h"

enum { UNMAPPED_PORT = 0x9990, CMOS_INDEX = 0x70, CMOS_DATA = 0x71 };
/* The end of the PCI hole (krun) and of the low MMIO region (crosvm). */
#define UNMAPPED_MMIO 0xf3fff000ul

static uint8_t cmos(uint8_t index)
{
	outb(CMOS_INDEX, index);
	return inb(CMOS_DATA);
}

static uint64_t cmos_number(uint8_t index)
{
	uint8_t value = cmos(index);
	bool binary = cmos(0xb) & 0x4;
	return binary ? value : (value >> 4) * 10 + (value & 0xf);
}

static void check_ones(const char *name, uint64_t value, uint64_t ones) { check(value == ones, name, value); }

static void check_unmapped(void)
{
	check_ones("port8", inb(UNMAPPED_PORT), 0xff);
	check_ones("port16", inw(UNMAPPED_PORT), 0xffff);
	check_ones("port32", inl(UNMAPPED_PORT), 0xffffffff);
	map_gib(UNMAPPED_MMIO);
	check_ones("mmio8", read8(UNMAPPED_MMIO), 0xff);
	check_ones("mmio16", read16(UNMAPPED_MMIO), 0xffff);
	check_ones("mmio32", read32(UNMAPPED_MMIO), 0xffffffff);
	check_ones("mmio64", read64(UNMAPPED_MMIO), ~0ul);
	outb(UNMAPPED_PORT, 0);
	write32(UNMAPPED_MMIO, 0);
}

static void check_devices(void)
{
	check((inb(COM1 + 5) & 0x60) == 0x60, "serial-ready", inb(COM1 + 5));
	check(inb(I8042_STATUS) != 0xff, "i8042-status", inb(I8042_STATUS));
	check(inw(PM1A_CNT) & 0x1, "sci-enabled", inw(PM1A_CNT));
	check((inb(PVPANIC) & 0x3) == 0x3, "pvpanic-events", inb(PVPANIC));
	map_gib(IOAPIC);
	write32(IOAPIC, 1);
	uint32_t version = read32(IOAPIC + 0x10);
	check((version & 0xff) >= 0x11 && (version >> 16 & 0xff) == 23, "ioapic-version", version);
}

static void check_clock(void)
{
	uint64_t tries = 0;
	while (cmos(0xa) & 0x80 && tries < 1000)
		tries++;
	check(tries < 1000, "rtc-update-bit", cmos(0xa));
	print("rtc 20%lu-%lu-%lu %lu:%lu:%lu\n", cmos_number(9), cmos_number(8), cmos_number(7), cmos_number(4), cmos_number(2),
	      cmos_number(0));
}

void main(void)
{
	check_unmapped();
	check_devices();
	check_clock();
	finish();
}
