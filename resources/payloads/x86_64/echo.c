/* Gives back what COM1 receives, up to a `q`: by asking the line status, or with `by=interrupt`. */
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

void main(void)
{
	const char *by = option("by");
	print("ready\n");
	if (by && is_word(by, "interrupt")) {
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
