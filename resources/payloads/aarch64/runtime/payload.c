#include "payload.h"

#include <stdarg.h>

const uint8_t *device_tree;
static uint64_t serial_port;
static bool failed;

extern void other_cpu_start(void);

void start_payload(const uint8_t *tree, uint64_t start)
{
	device_tree = tree;
	serial_port = cells("/serial", 0, "reg", 0);
	main(start);
	finish();
}

/* Both kinds of serial port transmit what is written to their first register. */
void put_char(char byte) { write8(serial_port, byte); }

static void put_text(const char *text)
{
	while (*text)
		put_char(*text++);
}

static void put_number(uint64_t value, unsigned base)
{
	char digits[20];
	int count = 0;
	do {
		unsigned digit = value % base;
		digits[count++] = digit < 10 ? '0' + digit : 'a' + digit - 10;
		value /= base;
	} while (value);
	while (count)
		put_char(digits[--count]);
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
		if (*format == 's')
			put_text(va_arg(arguments, const char *));
		if (*format == 'u')
			put_number(va_arg(arguments, uint64_t), 10);
		if (*format == 'x') {
			put_text("0x");
			put_number(va_arg(arguments, uint64_t), 16);
		}
	}
	va_end(arguments);
}

void check(bool passed, const char *name, uint64_t value)
{
	if (passed) {
		print("ok %s\n", name);
	} else {
		print("FAILED %s: %lx\n", name, value);
		failed = true;
	}
}

_Noreturn void finish(void)
{
	print(failed ? "something failed\n" : "all passed\n");
	for (;;)
		psci(PSCI_SYSTEM_OFF, 0, 0, 0);
}

_Noreturn void exception(uint64_t syndrome, uint64_t address, uint64_t fault)
{
	print("syndrome %lx, fault address %lx\n", syndrome, fault);
	check(false, "no exception at", address);
	finish();
}

int64_t psci(uint64_t function, uint64_t first, uint64_t second, uint64_t third)
{
	register uint64_t x0 __asm__("x0") = function;
	register uint64_t x1 __asm__("x1") = first;
	register uint64_t x2 __asm__("x2") = second;
	register uint64_t x3 __asm__("x3") = third;
	__asm__ volatile("hvc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3) : : "memory");
	return x0;
}

int64_t start_cpu(uint64_t affinity, void (*function)(void))
{
	barrier();
	return psci(PSCI_CPU_ON, affinity, (uint64_t)other_cpu_start, (uint64_t)function);
}
