/*
 * Gives back what COM1 receives, up to a `q`: by asking the line status, with `by=interrupt`, or with `by=linux`, by interrupt
 * after setting the port up as Linux does.
 */
#include "payload.h"

enum { SERIAL_PIN = 4, SERIAL_VECTOR = 0x40 };

static volatile bool done;

static void echo_received(void)
{
	while (inb(COM1 + 5) & 0x1) {
		char byte = inb(COM1);
		if (byte == 'q')
			done = true;
		else
			put_char(byte);
	}
}

__attribute__((interrupt)) static void on_serial(struct interrupt_frame *frame)
{
	(void)frame;
	inb(COM1 + 2);
	echo_received();
	end_of_interrupt();
}

/* Long enough for the monitor to hand over input. */
static void linger(void)
{
	for (int i = 0; i < 20000; i++)
		inb(COM1 + 7);
}

/* The accesses of drivers/tty/serial/8250/8250_port.c from the startup's last clearing on, slowly. */
static void set_up_as_linux(void)
{
	outb(COM1 + 2, 0x01);
	outb(COM1 + 2, 0x07); /* clear both FIFOs */
	outb(COM1 + 2, 0x00);
	inb(COM1 + 5);
	inb(COM1);
	inb(COM1 + 2);
	inb(COM1 + 6);
	linger();
	outb(COM1 + 1, 0x05); /* received data, line status */
	linger();
	outb(COM1 + 3, 0x83);
	outb(COM1, 0x01);
	outb(COM1 + 1, 0x00);
	outb(COM1 + 3, 0x03);
	outb(COM1 + 2, 0x01);
	outb(COM1 + 2, 0x81); /* FIFOs on, interrupt from 8 bytes on */
}

void main(void)
{
	const char *by = option("by");
	bool as_linux = by && is_word(by, "linux");
	print("ready\n");
	if (as_linux)
		set_up_as_linux();
	if (as_linux || (by && is_word(by, "interrupt"))) {
		enable_lapic();
		set_handler(SERIAL_VECTOR, on_serial);
		route_pin(SERIAL_PIN, SERIAL_VECTOR);
		outb(COM1 + 4, 0x0b); /* DTR, RTS, OUT2 */
		outb(COM1 + 1, 0x01); /* interrupt when a byte is there */
		/* One that came before gives no edge. */
		echo_received();
		while (!done)
			wait_for_interrupt();
	}
	while (!done)
		echo_received();
	print("bye\n");
}
