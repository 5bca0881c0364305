/* Interrupts that reach a CPU: COM1 through the IOAPIC, the local APIC's one-shot timer, its TSC deadline. */
#include "payload.h"

enum { SERIAL_PIN = 4, SERIAL_VECTOR = 0x40, TIMER_VECTOR = 0x41, TSC_DEADLINE_MSR = 0x6e0 };
enum { LVT_TIMER = 0x320, TIMER_COUNT = 0x380, TIMER_DIVIDE = 0x3e0, TSC_DEADLINE_MODE = 0x40000 };

static const char text[] = "sent by interrupts\n";
static volatile uint64_t serial_interrupts, timer_interrupts, sent;

__attribute__((interrupt)) static void on_serial(struct interrupt_frame *frame)
{
	(void)frame;
	/* Identification 1: the transmitter is empty. Reading it takes the request back. */
	if ((inb(COM1 + 2) & 0xf) == 0x2) {
		serial_interrupts++;
		if (text[sent])
			put_char(text[sent++]);
	}
	end_of_interrupt();
}

__attribute__((interrupt)) static void on_timer(struct interrupt_frame *frame)
{
	(void)frame;
	timer_interrupts++;
	end_of_interrupt();
}

static void test_serial(void)
{
	set_handler(SERIAL_VECTOR, on_serial);
	route_pin(SERIAL_PIN, SERIAL_VECTOR);
	outb(COM1 + 4, 0x0b); /* DTR, RTS and OUT2, which lets a PC's UART reach its interrupt line */
	outb(COM1 + 1, 0x02); /* interrupt when the transmitter is empty */
	put_char(text[sent++]);
	while (text[sent])
		wait_for_interrupt();
	outb(COM1 + 1, 0);
	/* Each byte but the first was sent by an interrupt. */
	check(serial_interrupts >= sizeof text - 2, "serial-interrupts", serial_interrupts);
}

static void test_timer(void)
{
	set_handler(TIMER_VECTOR, on_timer);
	write32(LAPIC + TIMER_DIVIDE, 0xb); /* by 1 */
	write32(LAPIC + LVT_TIMER, TIMER_VECTOR);
	write32(LAPIC + TIMER_COUNT, 1000000);
	while (!timer_interrupts)
		wait_for_interrupt();
	check(timer_interrupts == 1, "lapic-timer", timer_interrupts);
}

static bool has_tsc_deadline(void)
{
	uint32_t eax = 1, ebx, ecx = 0, edx;
	__asm__ volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
	return ecx & 1u << 24;
}

static void test_tsc_deadline(void)
{
	if (!has_tsc_deadline()) {
		print("no TSC deadline\n");
		return;
	}
	timer_interrupts = 0;
	write32(LAPIC + LVT_TIMER, TSC_DEADLINE_MODE | TIMER_VECTOR);
	uint64_t deadline = rdtsc() + 1000000;
	__asm__ volatile("wrmsr" : : "c"(TSC_DEADLINE_MSR), "a"((uint32_t)deadline), "d"((uint32_t)(deadline >> 32)));
	while (!timer_interrupts)
		wait_for_interrupt();
	check(rdtsc() >= deadline, "tsc-deadline", deadline);
}

void main(void)
{
	enable_lapic();
	test_serial();
	test_timer();
	test_tsc_deadline();
	finish();
}
