/*
 * Gives back what it receives over the socket device: on a connection that it begins, to port 1024 of the host, and on those that
 * the host begins, to port 52, one at a time. A connection to port 99 ends it.
 */
#include "virtio.h"

enum { VSOCK = 19, RX = 0, TX = 1, SIZE = 16, HEADER = 44, DATA = 4096, ECHO = 1 << 16 };
enum { REQUEST = 1, RESPONSE, RESET, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST };
enum { NO_RECEIVE = 1, NO_SEND = 2 };
enum { STREAM = 1, HOST_CID = 2, HOST_PORT = 1024, GUEST_PORT = 52, FIRST_PORT = 5000, END_PORT = 99 };

struct header {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port, length;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));

static struct virtio_device vsock;
static struct virtqueue queues[3];
static uint64_t cid;
/* Data begins at a word's boundary. */
static struct {
	uint8_t before[4];
	struct header header;
	uint64_t data[DATA / 8];
} __attribute__((packed, aligned(16))) buffers[SIZE];

/* The connection. What was received and not sent back yet lies in `echo` from `fwd_cnt` to `received`, modulo its size. */
static struct {
	uint32_t host, guest;
	bool open, ending;
	uint32_t received, fwd_cnt, host_buffer, host_fwd_cnt;
} connection;
static uint8_t echo[ECHO];

static void give(uint16_t head)
{
	queues[RX].descriptors[head] = (struct virtio_descriptor){ (uint64_t)&buffers[head].header, HEADER + DATA,
								   VIRTIO_WRITE, 0 };
	virtio_publish(&queues[RX], head);
	virtio_notify(&vsock, &queues[RX]);
}

/* Sends a packet and waits until the device has taken it. */
static void send(uint32_t host, uint32_t guest, uint16_t op, uint32_t flags, const void *data, uint32_t length)
{
	struct header header = { cid, HOST_CID, guest, host, length, STREAM, op, flags, ECHO, connection.fwd_cnt + length };
	uint32_t head, used;
	queues[TX].descriptors[0] = (struct virtio_descriptor){ (uint64_t)&header, HEADER, length ? VIRTIO_NEXT : 0, 1 };
	queues[TX].descriptors[1] = (struct virtio_descriptor){ (uint64_t)data, length, 0, 0 };
	virtio_publish(&queues[TX], 0);
	virtio_notify(&vsock, &queues[TX]);
	while (!virtio_used(&queues[TX], &head, &used))
		pause();
}

static void answer(uint16_t op, uint32_t flags) { send(connection.host, connection.guest, op, flags, NULL, 0); }

static void open(uint32_t host, uint32_t guest)
{
	connection.host = host;
	connection.guest = guest;
	connection.open = true;
	connection.ending = false;
	connection.received = connection.fwd_cnt = 0;
}

static void keep(const uint8_t *data, uint32_t length)
{
	if (connection.received - connection.fwd_cnt + length > ECHO)
		check(false, "more-than-there-is-room-for", length);
	while (length) {
		uint32_t at = connection.received % ECHO;
		/* By words where it can be: what interprets instructions takes as long for one as for a byte. */
		uint32_t step = length >= 8 && ECHO - at >= 8 ? 8 : 1;
		if (step == 8)
			*(uint64_t *)&echo[at] = *(const uint64_t *)data;
		else
			echo[at] = *data;
		data += step;
		length -= step;
		connection.received += step;
	}
}

static void send_back(void)
{
	for (;;) {
		uint32_t length = connection.received - connection.fwd_cnt;
		uint32_t credit = connection.host_buffer - (connection.fwd_cnt - connection.host_fwd_cnt);
		uint32_t to_end = ECHO - connection.fwd_cnt % ECHO;
		if (length > credit)
			length = credit;
		if (length > to_end)
			length = to_end;
		if (!length)
			break;
		send(connection.host, connection.guest, RW, 0, &echo[connection.fwd_cnt % ECHO], length);
		connection.fwd_cnt += length;
	}
	if (connection.ending && connection.received == connection.fwd_cnt) {
		answer(SHUTDOWN, NO_RECEIVE | NO_SEND);
		connection.open = false;
	}
}

static void take(const struct header *packet, const uint8_t *data)
{
	uint32_t host = packet->src_port, guest = packet->dst_port;
	if (packet->src_cid != HOST_CID || packet->dst_cid != cid || packet->type != STREAM)
		check(false, "addresses", packet->src_cid);
	if (packet->op == REQUEST) {
		if (guest != GUEST_PORT || connection.open) {
			send(host, guest, RESET, 0, NULL, 0);
			if (guest == END_PORT)
				finish();
			return;
		}
		open(host, guest);
		answer(RESPONSE, 0);
	}
	if (!connection.open || host != connection.host || guest != connection.guest)
		return;
	connection.host_buffer = packet->buf_alloc;
	connection.host_fwd_cnt = packet->fwd_cnt;
	switch (packet->op) {
	case RESET:
		connection.open = false;
		break;
	case SHUTDOWN:
		connection.ending = true;
		if (packet->flags == (NO_RECEIVE | NO_SEND)) {
			answer(RESET, 0);
			connection.open = false;
		}
		break;
	case RW:
		keep(data, packet->length);
		break;
	case CREDIT_REQUEST:
		answer(CREDIT_UPDATE, 0);
		break;
	}
	if (connection.open)
		send_back();
}

void main(void)
{
	if (!virtio_find(VSOCK, 0, &vsock)) {
		check(false, "found", 0);
		finish();
	}
	cid = virtio_read(&vsock, VIRTIO_CONFIG);
	print("cid %lu\n", cid);
	virtio_negotiate(&vsock, VIRTIO_F_VERSION_1);
	for (unsigned number = 0; number < 3; number++)
		if (!virtio_set_up_queue(&vsock, &queues[number], number, SIZE))
			check(false, "queue-set-up", number);
	virtio_start(&vsock);
	for (uint16_t head = 0; head < SIZE; head++)
		give(head);
	open(HOST_PORT, FIRST_PORT);
	answer(REQUEST, 0);
	for (;;) {
		uint32_t head, length;
		if (!virtio_used(&queues[RX], &head, &length)) {
			pause();
			continue;
		}
		if (length != HEADER + buffers[head].header.length)
			check(false, "length", length);
		take(&buffers[head].header, (const uint8_t *)buffers[head].data);
		give(head);
	}
}
