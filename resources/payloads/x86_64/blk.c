/*
 * A disk through its registers, its ring and its interrupt. Sectors of the image hold their numbers in every 8 bytes. `mode=journal`
 * instead writes numbers and flushes, and tells each number once it is on disk, without end.
 */
#include "virtio.h"

enum { BLOCK = 2, VECTOR = 0x50, QUEUE = 64, SLOTS = 16, SECTOR = 512, WORDS = SECTOR / 8 };
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
static void submit(unsigned number, uint32_t type, uint64_t sector, uint32_t length)
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
		(uint64_t)slot->data, length, type == OUT ? VIRTIO_NEXT : VIRTIO_NEXT | VIRTIO_WRITE, first + 2
	};
	queue.descriptors[first + 2] = (struct virtio_descriptor){ (uint64_t)&slot->status, 1, VIRTIO_WRITE, 0 };
	virtio_publish(&queue, first);
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

	for (unsigned slot = 0; slot < SLOTS; slot++) {
		fill(&slots[slot], ~(uint64_t)slot);
		submit(slot, OUT, slot, SECTOR);
	}
	virtio_notify(&blk, &queue);
	wait_used(SLOTS);
	for (unsigned slot = 0; slot < SLOTS; slot++)
		wrong += slots[slot].status != OK;
	check(!wrong, "writes", wrong);
	check(request(FLUSH, 0, 0) == OK, "flush", slots[0].status);
	for (unsigned sector = 0; sector < SLOTS; sector++)
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
		for (unsigned slot = 0; slot < SLOTS; slot++)
			submit(slot, IN, slot + 1, SECTOR);
		virtio_notify(&blk, &queue);
		for (unsigned wait = 0; wait < round % 16; wait++)
			pause();
		virtio_write(&blk, VIRTIO_STATUS, 0);
		for (unsigned slot = 0; slot < SLOTS; slot++)
			fill(&slots[slot], round);
		for (unsigned wait = 0; wait < 20; wait++)
			pause();
		for (unsigned slot = 0; slot < SLOTS; slot++)
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
	test_requests(capacity());
	test_resets();
	finish();
}
