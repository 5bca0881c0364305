/* The entropy device through its registers, its ring and its interrupt; then what a driver that lies can do to it. `log=N` instead
 * has a queue refused N times, of which the monitor's log tells. */
#include "virtio.h"

enum { ENTROPY = 4, VECTOR = 0x50, SIZE = 16, ROUNDS = 20 };

static struct virtio_device rng;
static struct virtqueue queue;
static uint64_t random_words[4];
static volatile uint64_t interrupts;

__attribute__((interrupt)) static void on_interrupt(struct interrupt_frame *frame)
{
	(void)frame;
	virtio_write(&rng, VIRTIO_INTERRUPT_ACK, virtio_read(&rng, VIRTIO_INTERRUPT_STATUS));
	interrupts++;
	end_of_interrupt();
}

static void start(void)
{
	uint32_t status = virtio_negotiate(&rng, VIRTIO_F_VERSION_1);
	if (status != (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK))
		check(false, "negotiation", status);
	if (!virtio_set_up_queue(&rng, &queue, 0, SIZE))
		check(false, "queue-set-up", 0);
	virtio_start(&rng);
}

/* A request whose answer an interrupt tells of; returns how many bytes came. */
static uint32_t request(void)
{
	uint32_t head, length;
	interrupts = 0;
	queue.descriptors[0] =
		(struct virtio_descriptor){ (uint64_t)random_words, sizeof random_words, VIRTIO_WRITE, 0 };
	virtio_publish(&queue, 0);
	virtio_notify(&rng, &queue);
	/* An interrupt may also be left from before a reset. */
	while (!virtio_used(&queue, &head, &length))
		wait_for_interrupt();
	while (!interrupts)
		wait_for_interrupt();
	return length;
}

static void test_requests(void)
{
	uint64_t before = 0, wrong = 0;
	start();
	for (unsigned round = 0; round < ROUNDS; round++) {
		if (request() != sizeof random_words || random_words[0] == before)
			wrong++;
		before = random_words[0];
	}
	check(!wrong, "requests", wrong);
}

/* After what the queue holds now, the device must ask for a reset, and work after it. */
static void check_breaks(const char *name)
{
	virtio_notify(&rng, &queue);
	while (!(virtio_read(&rng, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET))
		pause();
	check(queue.used_ring.index == 0, name, queue.used_ring.index);
	start();
	check(request() == sizeof random_words, "works-again", 0);
	start();
}

static void test_lies(void)
{
	start();
	queue.descriptors[0] = (struct virtio_descriptor){ (uint64_t)random_words, 8, VIRTIO_WRITE | VIRTIO_NEXT, 0 };
	virtio_publish(&queue, 0);
	check_breaks("loop");

	queue.descriptors[0] = (struct virtio_descriptor){ rng.base, 64, VIRTIO_WRITE, 0 };
	virtio_publish(&queue, 0);
	check_breaks("buffer-in-registers");

	queue.descriptors[0] = (struct virtio_descriptor){ ~0ul - 7, ~0u, VIRTIO_WRITE, 0 };
	virtio_publish(&queue, 0);
	check_breaks("buffer-wraps");

	queue.available = 1000;
	virtio_publish(&queue, 0);
	check_breaks("index-jumps");

	virtio_negotiate(&rng, VIRTIO_F_VERSION_1);
	virtio_write(&rng, VIRTIO_QUEUE_SELECT, 0);
	virtio_write(&rng, VIRTIO_QUEUE_SIZE, SIZE);
	virtio_write(&rng, VIRTIO_QUEUE_DESCRIPTORS, rng.base);
	virtio_write(&rng, VIRTIO_QUEUE_READY, 1);
	check(!virtio_read(&rng, VIRTIO_QUEUE_READY), "rings-in-registers", 0);
	virtio_write(&rng, VIRTIO_QUEUE_SELECT, 0xffff);
	check(!virtio_read(&rng, VIRTIO_QUEUE_SIZE_MAX), "no-such-queue", 0);

	/* One access that ends in the next window or behind it. */
	write64(rng.base + 0xffc, ~0ul);
	(void)read64(rng.base + 0xffc);

	for (unsigned round = 0; round < 1000; round++) {
		start();
		queue.descriptors[0] =
			(struct virtio_descriptor){ (uint64_t)random_words, sizeof random_words, VIRTIO_WRITE, 0 };
		virtio_publish(&queue, 0);
		virtio_notify(&rng, &queue);
		virtio_write(&rng, VIRTIO_STATUS, 0);
		__atomic_store_n(&random_words[0], round, __ATOMIC_SEQ_CST);
		for (unsigned wait = 0; wait < 20; wait++)
			pause();
		if (__atomic_load_n(&random_words[0], __ATOMIC_SEQ_CST) != round)
			check(false, "written-after-reset", round);
	}
	start();
	check(request() == sizeof random_words, "works-after-resets", 0);
}

static void fill_log(uint64_t count)
{
	virtio_negotiate(&rng, VIRTIO_F_VERSION_1);
	virtio_write(&rng, VIRTIO_QUEUE_SELECT, 0);
	for (uint64_t refused = 0; refused < count; refused++)
		virtio_write(&rng, VIRTIO_QUEUE_READY, 1);
}

void main(void)
{
	if (!virtio_find(ENTROPY, number_option("skip", 0), &rng)) {
		check(false, "found", 0);
		finish();
	}
	if (number_option("log", 0)) {
		fill_log(number_option("log", 0));
		finish();
	}
	check(virtio_read(&rng, VIRTIO_MAGIC) == 0x74726976, "magic", virtio_read(&rng, VIRTIO_MAGIC));
	check(virtio_offered(&rng) & VIRTIO_F_VERSION_1, "version-1", virtio_offered(&rng));
	enable_lapic();
	set_handler(VECTOR, on_interrupt);
	route_pin(rng.irq, VECTOR);
	test_requests();
	test_lies();
	finish();
}
