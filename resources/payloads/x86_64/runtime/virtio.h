/* A driver for virtio devices on the MMIO transport (virtio 1.2, section 4.2), found by the command line of `--announce cmdline`. */
#ifndef VIRTIO_H
#define VIRTIO_H

#include "payload.h"

enum {
	VIRTIO_MAGIC = 0x000,
	VIRTIO_VERSION = 0x004,
	VIRTIO_DEVICE_TYPE = 0x008,
	VIRTIO_DEVICE_FEATURES = 0x010,
	VIRTIO_DEVICE_FEATURES_SELECT = 0x014,
	VIRTIO_DRIVER_FEATURES = 0x020,
	VIRTIO_DRIVER_FEATURES_SELECT = 0x024,
	VIRTIO_QUEUE_SELECT = 0x030,
	VIRTIO_QUEUE_SIZE_MAX = 0x034,
	VIRTIO_QUEUE_SIZE = 0x038,
	VIRTIO_QUEUE_READY = 0x044,
	VIRTIO_NOTIFY = 0x050,
	VIRTIO_INTERRUPT_STATUS = 0x060,
	VIRTIO_INTERRUPT_ACK = 0x064,
	VIRTIO_STATUS = 0x070,
	VIRTIO_QUEUE_DESCRIPTORS = 0x080,
	VIRTIO_QUEUE_AVAILABLE = 0x090,
	VIRTIO_QUEUE_USED = 0x0a0,
	VIRTIO_CONFIG = 0x100,
};

enum { VIRTIO_ACKNOWLEDGE = 1, VIRTIO_DRIVER = 2, VIRTIO_DRIVER_OK = 4, VIRTIO_FEATURES_OK = 8, VIRTIO_NEEDS_RESET = 64 };
enum { VIRTIO_NEXT = 1, VIRTIO_WRITE = 2, VIRTIO_INDIRECT = 4 };
#define VIRTIO_F_VERSION_1 (1ul << 32)

struct virtio_device {
	uint64_t base;
	uint32_t irq;
};

struct virtio_descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

enum { VIRTQ_MAX = 256 };

/* A virtqueue; the driver of it counts `available` and `used`. */
struct virtqueue {
	struct virtio_descriptor descriptors[VIRTQ_MAX] __attribute__((aligned(16)));
	struct {
		uint16_t flags, index, ring[VIRTQ_MAX], used_event;
	} available_ring __attribute__((aligned(4)));
	struct {
		uint16_t flags, index;
		struct {
			uint32_t head, length;
		} ring[VIRTQ_MAX];
		uint16_t available_event;
	} used_ring __attribute__((aligned(4)));
	uint16_t number, size, available, used;
};

/* The device of this type on the command line that stands after `skip` others; its window is mapped. */
bool virtio_find(uint32_t type, unsigned skip, struct virtio_device *device);
static inline uint32_t virtio_read(const struct virtio_device *device, uint64_t offset) { return read32(device->base + offset); }
static inline void virtio_write(const struct virtio_device *device, uint64_t offset, uint32_t value)
{
	write32(device->base + offset, value);
}
uint64_t virtio_offered(const struct virtio_device *device);
/* Resets the device and negotiates up to FEATURES_OK; returns the status. */
uint32_t virtio_negotiate(const struct virtio_device *device, uint64_t features);
/* Empties a queue of `size` entries and tells the device of it; returns whether it is ready. */
bool virtio_set_up_queue(const struct virtio_device *device, struct virtqueue *queue, uint16_t number, uint16_t size);
void virtio_start(const struct virtio_device *device);
/* Makes the chain that begins at a descriptor available, without a notification. */
void virtio_publish(struct virtqueue *queue, uint16_t head);
void virtio_notify(const struct virtio_device *device, const struct virtqueue *queue);
/* The next used element, if there is one. */
bool virtio_used(struct virtqueue *queue, uint32_t *head, uint32_t *length);

#endif
