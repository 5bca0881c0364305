/*
 * What small kernels do to a PC and must survive: each wait here is one that real kernels have, with a bound that they lack. With
 * `pit=1` there are a PIC and a PIT to use.
 */
#include "payload.h"

enum { SERIAL_PIN = 4, SERIAL_VECTOR = 0x40, PIC_VECTOR = 0x30, RTC_VECTOR = 0x38 };
enum { PORT61 = 0x61, PIT_CHANNEL_0 = 0x40, PIT_CHANNEL_2 = 0x42, PIT_MODE = 0x43, PIC1 = 0x20, PIC2 = 0xa0 };
enum { VGA_TEXT = 0xb8000, CRTC = 0x3d4, VGA_STATUS = 0x3da, PCI_ADDRESS = 0xcf8, PCI_DATA = 0xcfc, PATIENCE = 1000000 };

static volatile uint64_t serial_interrupts, timer_interrupts;

static inline void outl(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

/* Waits until a port's bits have a value. */
static void await(const char *name, uint16_t port, uint8_t bits, uint8_t value)
{
	uint64_t tries = 0;
	while ((inb(port) & bits) != value && tries < PATIENCE)
		tries++;
	check(tries < PATIENCE, name, inb(port));
}

__attribute__((interrupt)) static void on_serial(struct interrupt_frame *frame)
{
	(void)frame;
	serial_interrupts++;
	end_of_interrupt();
}

static void set_up_serial_without_latch(void)
{
	/* The divisor, meant for the latch that is forgotten: the low byte is printed, the high one disables interrupts. */
	outb(COM1, '.');
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 0x03);
	print("\n");
	check(inb(COM1 + 1) == 0, "serial-ier", inb(COM1 + 1));
}

static void test_serial_registers(void)
{
	outb(COM1 + 3, 0x83);
	outb(COM1, 0x12);
	outb(COM1 + 1, 0x34);
	uint8_t low = inb(COM1), high = inb(COM1 + 1);
	outb(COM1 + 3, 0x03);
	check(low == 0x12 && high == 0x34, "serial-divisor", high);
	check(inb(COM1 + 3) == 0x03, "serial-lcr", inb(COM1 + 3));
	outb(COM1 + 2, 0xc7);
	check((inb(COM1 + 2) & 0xcf) == 0xc1, "serial-fifos", inb(COM1 + 2));
	outb(COM1 + 7, 0xa5);
	check(inb(COM1 + 7) == 0xa5, "serial-scratch", inb(COM1 + 7));
	check(inb(COM1 + 5) == 0x60, "serial-lsr", inb(COM1 + 5));
	check((inb(COM1 + 6) & 0xb0) == 0xb0, "serial-msr", inb(COM1 + 6));
}

/* The self-test that tutorials have: a byte sent in loopback mode comes back, and interrupts. */
static void test_serial_loopback(void)
{
	enable_lapic();
	set_handler(SERIAL_VECTOR, on_serial);
	route_pin(SERIAL_PIN, SERIAL_VECTOR);
	outb(COM1 + 1, 0x01);
	outb(COM1 + 4, 0x1e);
	outb(COM1, 0xae);
	while (!serial_interrupts)
		wait_for_interrupt();
	uint8_t identification = inb(COM1 + 2), byte = inb(COM1);
	outb(COM1 + 1, 0);
	outb(COM1 + 4, 0x0f);
	check((identification & 0x0f) == 0x04, "serial-iir", identification);
	check(byte == 0xae, "serial-loopback", byte);
	check(serial_interrupts == 1, "serial-irq4", serial_interrupts);
}

static void test_port61(bool pit)
{
	outb(PORT61, (inb(PORT61) & ~0x02) | 0x01);
	check((inb(PORT61) & 0x03) == 0x01, "gate", inb(PORT61));
	uint64_t start = rdtsc();
	if (pit) {
		/* 10 ms in mode 0: the output rises at the end. */
		outb(PIT_MODE, 0xb0);
		outb(PIT_CHANNEL_2, 11932 & 0xff);
		outb(PIT_CHANNEL_2, 11932 >> 8);
		check(!(inb(PORT61) & 0x20), "pit-running", inb(PORT61));
	}
	await("pit-output", PORT61, 0x20, 0x20);
	print("calibrated %lu\n", rdtsc() - start);
	if (!pit)
		await("port61-output-low", PORT61, 0x20, 0);
	await("refresh-high", PORT61, 0x10, 0x10);
	await("refresh-low", PORT61, 0x10, 0);
}

__attribute__((interrupt)) static void on_timer(struct interrupt_frame *frame)
{
	(void)frame;
	timer_interrupts++;
	outb(PIC1, 0x20);
}

static void test_pic(void)
{
	set_handler(PIC_VECTOR, on_timer);
	static const uint8_t words[2][4] = { { 0x11, PIC_VECTOR, 0x04, 0x01 }, { 0x11, RTC_VECTOR, 0x02, 0x01 } };
	for (int chip = 0; chip < 2; chip++)
		for (int word = 0; word < 4; word++)
			outb((chip ? PIC2 : PIC1) + (word > 0), words[chip][word]);
	outb(PIC1 + 1, 0xfe);
	outb(PIC2 + 1, 0xff);
	/* 100 Hz, square wave. */
	outb(PIT_MODE, 0x36);
	outb(PIT_CHANNEL_0, 11932 & 0xff);
	outb(PIT_CHANNEL_0, 11932 >> 8);
	while (timer_interrupts < 3)
		wait_for_interrupt();
	outb(PIC1 + 1, 0xff);
	print("ok pic-timer\n");
}

static void test_i8042(void)
{
	await("i8042-ready", I8042_STATUS, 0x02, 0);
	while (inb(I8042_STATUS) & 0x01)
		inb(I8042_DATA);
	outb(I8042_STATUS, 0xaa);
	await("i8042-answers", I8042_STATUS, 0x01, 0x01);
	uint8_t answer = inb(I8042_DATA);
	check(answer == 0x55, "i8042-self-test", answer);
	/* Switching on A20, the long way. */
	outb(I8042_STATUS, 0xd0);
	await("i8042-output-port", I8042_STATUS, 0x01, 0x01);
	uint8_t port = inb(I8042_DATA);
	outb(I8042_STATUS, 0xd1);
	await("i8042-takes-operand", I8042_STATUS, 0x02, 0);
	outb(I8042_DATA, port | 0x02);
}

static void test_vga(void)
{
	volatile uint16_t *text = (volatile uint16_t *)VGA_TEXT;
	bool kept = true;
	for (uint16_t i = 0; i < 80 * 25; i++)
		text[i] = 0x0700 | ('A' + i % 26);
	for (uint16_t i = 0; i < 80 * 25; i++)
		kept &= text[i] == (0x0700 | ('A' + i % 26));
	check(kept, "vga-text", text[0]);
	outb(CRTC, 0x0e);
	outb(CRTC + 1, 0x03);
	outw(CRTC, 0x470f); /* index and value at once */
	outb(CRTC, 0x0e);
	uint8_t high = inb(CRTC + 1);
	outb(CRTC, 0x0f);
	check(high == 0x03 && inb(CRTC + 1) == 0x47, "vga-cursor", high);
	await("vga-retrace", VGA_STATUS, 0x08, 0x08);
	await("vga-display", VGA_STATUS, 0x08, 0);
}

static void test_pci(void)
{
	uint64_t found = 0;
	for (uint32_t function = 0; function < 65536; function++) {
		outl(PCI_ADDRESS, 0x80000000 | function << 8);
		found += inl(PCI_DATA) != 0xffffffff;
	}
	check(!found, "pci-absent", found);
}

static void test_swallowed_writes(void)
{
	outb(0x22, 0x70);
	outb(0x23, inb(0x23) | 0x01);
	for (int i = 0; i < 256; i++)
		outb(0x80, i);
	print("ok imcr-and-post\n");
}

void main(void)
{
	bool pit = number_option("pit", 0);
	set_up_serial_without_latch();
	test_serial_registers();
	test_serial_loopback();
	test_port61(pit);
	if (pit)
		test_pic();
	test_i8042();
	test_vga();
	test_swallowed_writes();
	test_pci();
	finish();
}
