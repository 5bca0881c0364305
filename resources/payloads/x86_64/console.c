/*
 * The console device with all its messages. By `do=` on the command line:
 *   echo   says "ready", then gives back what it receives, and says how large its terminal is, up to a `q`
 *   port   the same on port 1, of which the console tells the name
 *   panic  panics in words
 *   idle   says "ready" and reads nothing
 *   flood  prints without end, with `line=1` one line of letters that never repeat
 *   lines  prints `kib=` KiB in lines of `size=` bytes, a whole number of KiB, and powers off
 *   say    says the initrd's bytes, and nothing else, on `port=` 0, 1 or `serial`, a FORM FEED being a pause of 100 ms; then ends as
 *          `then=power-off|reset|triple-fault|spin|panic` says. What it says on ports 0 and 1 it does not wait for.
 * With `plain=1` the driver knows nothing of control messages, so there is port 0 only.
 */
#include "virtio.h"

enum { CONSOLE = 3, SIZE = 16, BUFFER = 256, PORTS = 2 };
#define MULTIPORT (1ul << 1)
enum { DEVICE_READY = 0, PORT_ADD = 1, PORT_READY = 3, CONSOLE_PORT = 4, RESIZE = 5, PORT_OPEN = 6, PORT_NAME = 7 };

struct message {
	uint32_t port;
	uint16_t event, value;
	uint8_t rest[BUFFER - 8];
};

static struct virtio_device console;
static struct virtqueue receive[PORTS], transmit[PORTS], to_driver, to_device;
static uint8_t received[PORTS][SIZE][BUFFER];
static struct message messages[SIZE];
static bool connected[PORTS];

static uint32_t wait_used(struct virtqueue *queue, uint32_t *head)
{
	uint32_t length;
	while (!virtio_used(queue, head, &length))
		pause();
	return length;
}

static void send(struct virtqueue *queue, const void *bytes, uint32_t length)
{
	uint32_t head;
	queue->descriptors[0] = (struct virtio_descriptor){ (uint64_t)bytes, length, 0, 0 };
	virtio_publish(queue, 0);
	virtio_notify(&console, queue);
	wait_used(queue, &head);
}

static void say(unsigned port, const char *text)
{
	uint32_t length = 0;
	while (text[length])
		length++;
	send(&transmit[port], text, length);
}

static void say_number(unsigned port, uint16_t number)
{
	char digits[6] = "";
	unsigned at = sizeof digits - 1;
	do
		digits[--at] = '0' + number % 10;
	while (number /= 10);
	say(port, digits + at);
}

static void tell(uint32_t port, uint16_t event, uint16_t value)
{
	struct message message = { port, event, value, { 0 } };
	send(&to_device, &message, 8);
}

static void give_room(struct virtqueue *queue, void *buffers)
{
	for (uint16_t i = 0; i < SIZE; i++) {
		queue->descriptors[i] =
			(struct virtio_descriptor){ (uint64_t)buffers + i * BUFFER, BUFFER, VIRTIO_WRITE, 0 };
		virtio_publish(queue, i);
	}
	virtio_notify(&console, queue);
}

static bool is_asked(const char *what)
{
	const char *asked = option("do");
	return asked && is_word(asked, what);
}

static void hear(const struct message *message, uint32_t length)
{
	const uint16_t *size = (const uint16_t *)message->rest;
	if (message->port >= PORTS)
		return;
	switch (message->event) {
	case PORT_ADD:
		tell(message->port, PORT_READY, 1);
		break;
	case CONSOLE_PORT:
		tell(message->port, PORT_OPEN, 1);
		break;
	case RESIZE:
		say(0, "size ");
		say_number(0, size[1]);
		say(0, "x");
		say_number(0, size[0]);
		say(0, "\n");
		break;
	case PORT_NAME:
		if (!is_asked("say")) {
			say(0, "name ");
			send(&transmit[0], message->rest, length - 8);
			say(0, "\n");
		}
		tell(message->port, PORT_OPEN, 1);
		break;
	case PORT_OPEN:
		connected[message->port] = message->value;
		break;
	}
}

static void hear_all(void)
{
	uint32_t head, length;
	while (virtio_used(&to_driver, &head, &length)) {
		hear(&messages[head], length);
		virtio_publish(&to_driver, head);
		virtio_notify(&console, &to_driver);
	}
}

static void set_up(bool plain)
{
	virtio_negotiate(&console, VIRTIO_F_VERSION_1 | (plain ? 0 : virtio_offered(&console) & (MULTIPORT | 1)));
	uint32_t ports = plain ? 1 : virtio_read(&console, VIRTIO_CONFIG + 4);
	for (unsigned port = 0; port < PORTS && port < ports; port++) {
		unsigned queue = port ? 2 * port + 2 : 0;
		virtio_set_up_queue(&console, &receive[port], queue, SIZE);
		virtio_set_up_queue(&console, &transmit[port], queue + 1, SIZE);
	}
	if (!plain) {
		virtio_set_up_queue(&console, &to_driver, 2, SIZE);
		virtio_set_up_queue(&console, &to_device, 3, SIZE);
	}
	virtio_start(&console);
	if (plain)
		return;
	give_room(&to_driver, messages);
	tell(0, DEVICE_READY, 1);
	while (!connected[0] || (ports > 1 && !connected[1]))
		hear_all();
}

static void echo(unsigned port, bool plain)
{
	uint32_t head, length;
	give_room(&receive[port], received[port]);
	for (;;) {
		if (!plain)
			hear_all();
		if (!virtio_used(&receive[port], &head, &length))
			continue;
		send(&transmit[port], received[port][head], length);
		for (uint32_t i = 0; i < length; i++)
			if (received[port][head][i] == 'q')
				return;
		virtio_publish(&receive[port], head);
		virtio_notify(&console, &receive[port]);
	}
}

/* Letters in no order (Marsaglia's xorshift). */
static const char *letters(void)
{
	static uint64_t state = 88172645463325252ul;
	static char text[257];
	for (unsigned i = 0; i < sizeof text - 1; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		text[i] = 'a' + state % 16;
	}
	return text;
}

static void print_lines(uint64_t size, uint64_t kib)
{
	enum { KIB = 1024 };
	static char text[KIB], end[KIB];
	for (unsigned i = 0; i < KIB; i++)
		text[i] = end[i] = "All work and no play makes Jack a dull boy "[i % 43];
	end[KIB - 1] = '\n';
	for (uint64_t i = 1; i <= kib; i++)
		send(&transmit[0], i % (size / KIB) ? text : end, KIB);
}

/* By ACPI's timer (3.579545 MHz, 24 bits). */
static void wait_100_ms(void)
{
	uint32_t start = inl(0x608);
	while (((inl(0x608) - start) & 0xffffff) < 357954)
		pause();
}

/* Up to the next pause; returns how much that was. */
static uint64_t say_piece(const char *port, const char *text, uint64_t size)
{
	struct virtqueue *queue = &transmit[is_word(port, "1")];
	uint64_t length = 0;
	while (length < size && text[length] != '\f')
		length++;
	if (is_word(port, "serial")) {
		for (uint64_t i = 0; i < length; i++)
			put_char(text[i]);
	} else if (length) {
		/* The device is done with earlier pieces: each is behind a pause. */
		queue->descriptors[0] = (struct virtio_descriptor){ (uint64_t)text, length, 0, 0 };
		virtio_publish(queue, 0);
		virtio_notify(&console, queue);
	}
	return length;
}

static void say_initrd(const char *port)
{
	const char *text = (const char *)initrd_start();
	for (uint64_t at = 0; at < initrd_size(); at++) {
		at += say_piece(port, text + at, initrd_size() - at);
		if (at < initrd_size())
			wait_100_ms();
	}
}

static _Noreturn void end(const char *how)
{
	struct __attribute__((packed)) { uint16_t limit; uint64_t base; } none = { 0, 0 };
	if (is_word(how, "power-off"))
		power_off();
	if (is_word(how, "reset"))
		outb(RESET_CONTROL, 0x6);
	if (is_word(how, "panic"))
		outb(PVPANIC, 0x1);
	if (is_word(how, "triple-fault"))
		__asm__ volatile("lidt %0; ud2" : : "m"(none));
	for (;;)
		pause();
}

void main(void)
{
	bool plain = number_option("plain", 0);
	if (!virtio_find(CONSOLE, 0, &console)) {
		print("no console device\n");
		power_off();
	}
	if (is_asked("say")) {
		const char *port = option("port"), *then = option("then");
		if (!is_word(port, "serial"))
			set_up(plain);
		say_initrd(port);
		end(then);
	}
	print("serial\n");
	set_up(plain);
	if (is_asked("lines")) {
		print_lines(number_option("size", 1024), number_option("kib", 1));
		power_off();
	}
	if (is_asked("panic")) {
		say(0, "[    1.0] Kernel panic - not syncing: in words\n");
		halt_forever();
	}
	while (is_asked("flood"))
		say(0, number_option("line", 0) ? letters() : "All work and no play\n");
	say(is_asked("port"), "ready\n");
	while (is_asked("idle"))
		pause();
	echo(is_asked("port"), plain);
	say(0, "\nbye\n");
	power_off();
}
