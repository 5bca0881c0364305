/*
 * Gives memory up, by the balloon and by reports of free pages, and uses it again. At each step it waits for a key, so that
 * the host can see what it has.
 */
#include "virtio.h"

enum { BALLOON = 5, SIZE = 16, PAGE = 4096, LIST = 256, BLOCK = 2 << 20 };
enum { INFLATE, DEFLATE, REPORT };
enum { PAGE_REPORTING = 1 << 5, ACTUAL = VIRTIO_CONFIG + 4 };
/* What is given up: behind the program, and in the first GiB. */
enum { START = 64 << 20, END = 96 << 20 };

static struct virtio_device balloon;
static struct virtqueue queues[3];
static uint32_t list[LIST];
/* Where memory is made of huge pages, there are no reports, and less than such a page is not given up. */
static bool has_reports;

static void start(void)
{
	has_reports = virtio_offered(&balloon) & PAGE_REPORTING;
	uint32_t status = virtio_negotiate(&balloon, VIRTIO_F_VERSION_1 | (has_reports ? PAGE_REPORTING : 0));
	if (status != (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK))
		check(false, "negotiation", status);
	for (unsigned number = 0; number < (has_reports ? 3 : 2); number++)
		if (!virtio_set_up_queue(&balloon, &queues[number], number, SIZE))
			check(false, "queue-set-up", number);
	virtio_start(&balloon);
}

/* Hands buffers from descriptor 0 on to the device and waits until it has used them. */
static void request(unsigned number)
{
	uint32_t head, length;
	virtio_publish(&queues[number], 0);
	virtio_notify(&balloon, &queues[number]);
	while (!virtio_used(&queues[number], &head, &length))
		pause();
}

static void send_list(unsigned number)
{
	queues[number].descriptors[0] = (struct virtio_descriptor){ (uint64_t)list, sizeof list, 0, 0 };
	request(number);
}

static void send_all(unsigned number)
{
	for (uint64_t at = START; at < END;) {
		for (unsigned i = 0; i < LIST; i++, at += PAGE)
			list[i] = at / PAGE;
		send_list(number);
	}
}

static void report_all(void)
{
	for (uint64_t at = START; at < END;) {
		for (unsigned i = 0; i < SIZE; i++, at += BLOCK)
			queues[REPORT].descriptors[i] = (struct virtio_descriptor){
				at, BLOCK, VIRTIO_WRITE | (i < SIZE - 1 ? VIRTIO_NEXT : 0), i + 1
			};
		request(REPORT);
	}
}

/* Every page must hold this, and is then used. */
static void use(uint64_t expected, const char *name)
{
	uint64_t wrong = 0;
	for (uint64_t at = START; at < END; at += PAGE) {
		if (read64(at) != expected)
			wrong++;
		write64(at, at);
		write64(at + PAGE - 8, at);
	}
	check(!wrong, name, wrong);
}

static void wait_for_key(const char *name)
{
	print("%s?\n", name);
	while (!(inb(COM1 + 5) & 0x1))
		pause();
	inb(COM1);
}

static void test_lies(void)
{
	static const uint32_t wrong[] = { ~0u, 1u << 31, 0xfec01000u / PAGE, (1u << 30) / PAGE };
	for (unsigned i = 0; i < LIST; i++)
		list[i] = wrong[i % 4];
	list[LIST - 1] = START / PAGE;
	write64(START, 1);
	send_list(INFLATE);
	check(read64(START) == !has_reports, "wrong-pages-are-skipped", read64(START));
	virtio_write(&balloon, ACTUAL, ~0u);
	check(virtio_read(&balloon, ACTUAL) == ~0u, "actual", virtio_read(&balloon, ACTUAL));

	queues[INFLATE].descriptors[0] = (struct virtio_descriptor){ START, 256 << 20, 0, 0 };
	request(INFLATE);
	check(true, "list-of-256-mib", 0);

	unsigned number = has_reports ? REPORT : INFLATE;
	uint16_t flags = has_reports ? VIRTIO_WRITE : 0;
	queues[number].descriptors[0] = (struct virtio_descriptor){ balloon.base, PAGE, flags, 0 };
	virtio_publish(&queues[number], 0);
	virtio_notify(&balloon, &queues[number]);
	while (!(virtio_read(&balloon, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET))
		pause();
	start();
	send_all(DEFLATE);
	check(true, "works-again", 0);
}

void main(void)
{
	if (!virtio_find(BALLOON, 0, &balloon)) {
		check(false, "found", 0);
		finish();
	}
	print("target %lu\n", (uint64_t)virtio_read(&balloon, VIRTIO_CONFIG));
	start();
	wait_for_key("start");
	use(0, "new-pages-are-zero");
	wait_for_key("used");
	send_all(INFLATE);
	wait_for_key("inflated");
	send_all(DEFLATE);
	use(0, "pages-from-the-balloon-are-zero");
	wait_for_key("used again");
	if (has_reports) {
		report_all();
		wait_for_key("reported");
		use(0, "reported-pages-are-zero");
	}
	test_lies();
	finish();
}
