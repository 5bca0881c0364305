/*
 * A disk through its registers, its ring and its interrupt. Sectors of the image hold their numbers in every 8 bytes. `mode=journal`
 * instead writes numbers and flushes, and tells each number once it is on disk, without end. `mode=load` does `count` requests of `size` bytes,
 * `depth` of them at a time, reads or (`writes=1`) writes, and tells how many ticks of the TSC they took.
 */
#include "virtio.h"

enum { BLOCK = 2, VECTOR = 0x50, QUEUE = 128, SLOTS = 32, SECTOR = 512, WORDS = SECTOR / 8, LARGEST = 64 << 10 };
/* So many requests at a time, and sectors written to, by the checks. */
enum { USED = 16 };
enum { IN = 0, OUT = 1, FLUSH = 4, GET_ID = 8 };
enum { OK = 0, IOERR = 1, UNSUPP = 2, NONE = 0xff };
#define F_FLUSH (1ul << 9)

/* A request: its header, its data and its status. Its descriptors are three from 3 * slot on. */
struct slot {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	uint64_t data[WORDS];
	volatile uint8_t status;
};

static struct virtio_device blk;
static struct virtqueue queue;
static struct slot slots[SLOTS];
static uint8_t buffers[SLOTS][LARGEST] __attribute__((aligned(4096)));

__attribute__((interrupt)) static void on_interrupt(struct interrupt_frame *frame)
{
	(void)frame;
	virtio_write(&blk, VIRTIO_INTERRUPT_ACK, virtio_read(&blk, VIRTIO_INTERRUPT_STATUS));
	end_of_interrupt();
}

static void start(void)
{
	uint32_t status = virtio_negotiate(&blk, VIRTIO_F_VERSION_1 | F_FLUSH);
	if (status != (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK))
		check(false, "negotiation", status);
	if (!virtio_set_up_queue(&blk, &queue, 0, QUEUE))
		check(false, "queue-set-up", 0);
	virtio_start(&blk);
}

static uint64_t capacity(void) { return virtio_read(&blk, VIRTIO_CONFIG) | (uint64_t)virtio_read(&blk, VIRTIO_CONFIG + 4) << 32; }

/* Makes a request available, without a notification. */
static void submit_buffer(unsigned number, uint32_t type, uint64_t sector, void *data, uint32_t length)
{
	struct slot *slot = &slots[number];
	uint16_t first = 3 * number;
	slot->header.type = type;
	slot->header.sector = sector;
	slot->status = NONE;
	queue.descriptors[first] = (struct virtio_descriptor){
		(uint64_t)&slot->header, sizeof slot->header, VIRTIO_NEXT, length ? first + 1 : first + 2
	};
	queue.descriptors[first + 1] = (struct virtio_descriptor){
		(uint64_t)data, length, type == OUT ? VIRTIO_NEXT : VIRTIO_NEXT | VIRTIO_WRITE, first + 2
	};
	queue.descriptors[first + 2] = (struct virtio_descriptor){ (uint64_t)&slot->status, 1, VIRTIO_WRITE, 0 };
	virtio_publish(&queue, first);
}

static void submit(unsigned number, uint32_t type, uint64_t sector, uint32_t length)
{
	submit_buffer(number, type, sector, slots[number].data, length);
}

static void wait_used(unsigned count)
{
	uint32_t head, length;
	while (count)
		if (virtio_used(&queue, &head, &length))
			count--;
		else
			wait_for_interrupt();
}

static uint8_t request(uint32_t type, uint64_t sector, uint32_t length)
{
	submit(0, type, sector, length);
	virtio_notify(&blk, &queue);
	wait_used(1);
	return slots[0].status;
}

static void fill(struct slot *slot, uint64_t value)
{
	for (unsigned word = 0; word < WORDS; word++)
		slot->data[word] = value;
}

static bool holds(const struct slot *slot, uint64_t value)
{
	for (unsigned word = 0; word < WORDS; word++)
		if (slot->data[word] != value)
			return false;
	return true;
}

static void test_requests(uint64_t sectors)
{
	uint64_t wrong = 0;
	for (uint64_t sector = 0; sector < sectors; sector++)
		wrong += request(IN, sector, SECTOR) != OK || !holds(&slots[0], sector);
	check(!wrong, "reads", wrong);

	for (unsigned slot = 0; slot < USED; slot++) {
		fill(&slots[slot], ~(uint64_t)slot);
		submit(slot, OUT, slot, SECTOR);
	}
	virtio_notify(&blk, &queue);
	wait_used(USED);
	for (unsigned slot = 0; slot < USED; slot++)
		wrong += slots[slot].status != OK;
	check(!wrong, "writes", wrong);
	check(request(FLUSH, 0, 0) == OK, "flush", slots[0].status);
	for (unsigned sector = 0; sector < USED; sector++)
		wrong += request(IN, sector, SECTOR) != OK || !holds(&slots[0], ~(uint64_t)sector);
	check(!wrong, "reads-back", wrong);

	check(request(IN, sectors, SECTOR) == IOERR, "read-behind-end", slots[0].status);
	check(request(OUT, sectors, SECTOR) == IOERR, "write-behind-end", slots[0].status);
	check(request(OUT, ~0ul, SECTOR) == IOERR, "sector-wraps", slots[0].status);
	check(request(99, 0, SECTOR) == UNSUPP, "unknown-request", slots[0].status);
	check(request(GET_ID, 0, 20) == OK, "id", slots[0].status);
	print("id %s\n", (const char *)slots[0].data);
}

/* Nothing is written to memory once a reset is done. */
static void test_resets(void)
{
	for (unsigned round = 0; round < 100; round++) {
		for (unsigned slot = 0; slot < USED; slot++)
			submit(slot, IN, slot + 1, SECTOR);
		virtio_notify(&blk, &queue);
		for (unsigned wait = 0; wait < round % 16; wait++)
			pause();
		virtio_write(&blk, VIRTIO_STATUS, 0);
		for (unsigned slot = 0; slot < USED; slot++)
			fill(&slots[slot], round);
		for (unsigned wait = 0; wait < 20; wait++)
			pause();
		for (unsigned slot = 0; slot < USED; slot++)
			if (!holds(&slots[slot], round))
				check(false, "written-after-reset", round);
		start();
	}
	check(request(IN, 1, SECTOR) == OK, "works-after-resets", slots[0].status);
}

static _Noreturn void journal(uint64_t sectors)
{
	for (uint64_t number = 1;; number++) {
		fill(&slots[0], number);
		if (request(OUT, number % sectors, SECTOR) != OK || request(FLUSH, 0, 0) != OK)
			debug_exit(1);
		print("%lu\n", number);
	}
}

static void load(uint64_t sectors)
{
	uint64_t count = number_option("count", 1000), started = 0, done = 0;
	uint32_t type = number_option("writes", 0) ? OUT : IN, size = number_option("size", 4096), head, length;
	uint64_t depth = number_option("depth", 1), places = sectors * SECTOR / size;
	check(depth <= SLOTS && size <= LARGEST && places, "load-fits", places);
	uint64_t before = rdtsc();
	for (; started < depth && started < count; started++)
		submit_buffer(started, type, started % places * (size / SECTOR), buffers[started], size);
	virtio_notify(&blk, &queue);
	while (done < count) {
		bool refilled = false;
		while (virtio_used(&queue, &head, &length)) {
			unsigned slot = head / 3;
			done++;
			if (slots[slot].status != OK)
				check(false, "load", slots[slot].status);
			if (started < count) {
				submit_buffer(slot, type, started++ % places * (size / SECTOR), buffers[slot], size);
				refilled = true;
			}
		}
		if (refilled)
			virtio_notify(&blk, &queue);
		else if (done < count)
			wait_for_interrupt();
	}
	print("ticks %lu\n", rdtsc() - before);
}

void main(void)
{
	if (!virtio_find(BLOCK, 0, &blk)) {
		check(false, "found", 0);
		finish();
	}
	enable_lapic();
	set_handler(VECTOR, on_interrupt);
	route_pin(blk.irq, VECTOR);
	start();
	if (option("mode") && is_word(option("mode"), "journal"))
		journal(capacity());
	if (option("mode") && is_word(option("mode"), "load")) {
		load(capacity());
		finish();
	}
	test_requests(capacity());
	test_resets();
	finish();
}
