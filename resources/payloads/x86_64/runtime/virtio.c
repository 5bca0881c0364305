#include "virtio.h"

/* Reads a number in decimal, or in hexadecimal after 0x, and goes behind it. */
static uint64_t read_number(const char **text)
{
	uint64_t value = 0;
	unsigned base = 10;
	if ((*text)[0] == '0' && (*text)[1] == 'x') {
		base = 16;
		*text += 2;
	}
	for (;; (*text)++) {
		char digit = **text;
		if (digit >= '0' && digit <= '9')
			value = value * base + (digit - '0');
		else if (base == 16 && digit >= 'a' && digit <= 'f')
			value = value * base + (digit - 'a' + 10);
		else
			return value;
	}
}

/* Reads SIZE@BASE:IRQ. */
static struct virtio_device read_place(const char *text)
{
	struct virtio_device device = { 0, 0 };
	while (*text && *text != '@')
		text++;
	if (!*text)
		return device;
	text++;
	device.base = read_number(&text);
	if (*text == ':') {
		text++;
		device.irq = read_number(&text);
	}
	return device;
}

bool virtio_find(uint32_t type, unsigned skip, struct virtio_device *device)
{
	static const char name[] = "virtio_mmio.device=";
	for (const char *text = command_line(); *text; text++) {
		if (!same_bytes(text, name, sizeof name - 1))
			continue;
		*device = read_place(text + sizeof name - 1);
		map_gib(device->base);
		if (virtio_read(device, VIRTIO_DEVICE_TYPE) == type && !skip--)
			return true;
	}
	return false;
}

uint64_t virtio_offered(const struct virtio_device *device)
{
	virtio_write(device, VIRTIO_DEVICE_FEATURES_SELECT, 1);
	uint64_t high = virtio_read(device, VIRTIO_DEVICE_FEATURES);
	virtio_write(device, VIRTIO_DEVICE_FEATURES_SELECT, 0);
	return high << 32 | virtio_read(device, VIRTIO_DEVICE_FEATURES);
}

uint32_t virtio_negotiate(const struct virtio_device *device, uint64_t features)
{
	virtio_write(device, VIRTIO_STATUS, 0);
	virtio_write(device, VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE);
	virtio_write(device, VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	virtio_write(device, VIRTIO_DRIVER_FEATURES_SELECT, 0);
	virtio_write(device, VIRTIO_DRIVER_FEATURES, features);
	virtio_write(device, VIRTIO_DRIVER_FEATURES_SELECT, 1);
	virtio_write(device, VIRTIO_DRIVER_FEATURES, features >> 32);
	virtio_write(device, VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
	return virtio_read(device, VIRTIO_STATUS);
}

static void write_address(const struct virtio_device *device, uint64_t offset, const void *ring)
{
	uint64_t address = (uint64_t)ring;
	virtio_write(device, offset, address);
	virtio_write(device, offset + 4, address >> 32);
}

bool virtio_set_up_queue(const struct virtio_device *device, struct virtqueue *queue, uint16_t number, uint16_t size)
{
	queue->available_ring.flags = queue->available_ring.index = 0;
	queue->used_ring.flags = queue->used_ring.index = 0;
	queue->number = number;
	queue->size = size;
	queue->available = queue->used = 0;
	virtio_write(device, VIRTIO_QUEUE_SELECT, number);
	virtio_write(device, VIRTIO_QUEUE_SIZE, size);
	write_address(device, VIRTIO_QUEUE_DESCRIPTORS, queue->descriptors);
	write_address(device, VIRTIO_QUEUE_AVAILABLE, &queue->available_ring);
	write_address(device, VIRTIO_QUEUE_USED, &queue->used_ring);
	virtio_write(device, VIRTIO_QUEUE_READY, 1);
	return virtio_read(device, VIRTIO_QUEUE_READY) == 1;
}

void virtio_start(const struct virtio_device *device)
{
	virtio_write(device, VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

void virtio_publish(struct virtqueue *queue, uint16_t head)
{
	queue->available_ring.ring[queue->available++ % queue->size] = head;
	__atomic_store_n(&queue->available_ring.index, queue->available, __ATOMIC_RELEASE);
}

void virtio_notify(const struct virtio_device *device, const struct virtqueue *queue)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	virtio_write(device, VIRTIO_NOTIFY, queue->number);
}

bool virtio_used(struct virtqueue *queue, uint32_t *head, uint32_t *length)
{
	if (__atomic_load_n(&queue->used_ring.index, __ATOMIC_ACQUIRE) == queue->used)
		return false;
	uint16_t slot = queue->used++ % queue->size;
	*head = queue->used_ring.ring[slot].head;
	*length = queue->used_ring.ring[slot].length;
	return true;
}
