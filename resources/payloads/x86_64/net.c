/*
 * A network driver that answers ARP, ping and UDP datagrams (at any port) at the address 10.7.0.2, until a datagram says
 * "end". With `tso=1` on the command line it then sends one TCP segment of 20,000 bytes for the host to cut.
 */
#include "virtio.h"

enum { NET = 1, VECTOR = 0x50, SIZE = 64, HEADER = 12, BUFFER = 2048, ETHERNET = 14, IP = 20, UDP = 8, TCP = 20 };
enum { RX, TX };
enum { F_CSUM = 1 << 0, F_MTU = 1 << 3, F_MAC = 1 << 5, F_HOST_TSO4 = 1 << 11, F_MRG_RXBUF = 1 << 15, F_STATUS = 1 << 16 };
enum { NEEDS_CSUM = 1, GSO_TCPV4 = 1, SEGMENT = 1000, SEGMENTS = 20 };

static const uint8_t address[4] = { 10, 7, 0, 2 };
static struct virtio_device net;
static struct virtqueue receive, transmit;
static uint8_t buffers[SIZE][BUFFER], frame[0x10000];
static uint8_t mac[6];
static bool ended;
static uint64_t echoed;

__attribute__((interrupt)) static void on_interrupt(struct interrupt_frame *interrupted)
{
	(void)interrupted;
	virtio_write(&net, VIRTIO_INTERRUPT_ACK, virtio_read(&net, VIRTIO_INTERRUPT_STATUS));
	end_of_interrupt();
}

static void copy(void *to, const void *from, size_t size)
{
	uint8_t *target = to;
	const uint8_t *source = from;
	while (size--)
		*target++ = *source++;
}

static uint16_t big_endian(const uint8_t *bytes) { return bytes[0] << 8 | bytes[1]; }

static void put_big_endian(uint8_t *bytes, uint16_t value)
{
	bytes[0] = value >> 8;
	bytes[1] = value;
}

static uint32_t sum(uint32_t start, const uint8_t *bytes, size_t size)
{
	for (; size > 1; bytes += 2, size -= 2)
		start += big_endian(bytes);
	return size ? start + (*bytes << 8) : start;
}

static uint16_t fold(uint32_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return total;
}

/* Gives the device a buffer to fill. */
static void offer(uint16_t index)
{
	receive.descriptors[index] = (struct virtio_descriptor){ (uint64_t)buffers[index], BUFFER, VIRTIO_WRITE, 0 };
	virtio_publish(&receive, index);
}

static void wait_used(struct virtqueue *queue, uint32_t *head, uint32_t *length)
{
	while (!virtio_used(queue, head, length))
		wait_for_interrupt();
}

/* Sends `frame`, whose first bytes are the virtio header; returns when the device is done with it. */
static void send(size_t size)
{
	uint32_t head, length;
	transmit.descriptors[0] = (struct virtio_descriptor){ (uint64_t)frame, HEADER + size, 0, 0 };
	virtio_publish(&transmit, 0);
	virtio_notify(&net, &transmit);
	wait_used(&transmit, &head, &length);
}

/* The frame at hand goes back to where it came from. */
static void reply(uint8_t *ethernet, size_t size)
{
	copy(ethernet, ethernet + 6, 6);
	copy(ethernet + 6, mac, 6);
	for (unsigned at = 0; at < HEADER; at++)
		frame[at] = 0;
	send(size);
}

static void answer_arp(uint8_t *ethernet, size_t size)
{
	uint8_t *arp = ethernet + ETHERNET;
	if (size < ETHERNET + 28 || big_endian(arp + 6) != 1 || !same_bytes(arp + 24, address, 4))
		return;
	put_big_endian(arp + 6, 2);
	copy(arp + 18, arp + 8, 10);
	copy(arp + 8, mac, 6);
	copy(arp + 14, address, 4);
	reply(ethernet, size);
}

/* Swaps the addresses, which leaves all checksums as they are. */
static void swap_addresses(uint8_t *ip)
{
	uint8_t from[4];
	copy(from, ip + 12, 4);
	copy(ip + 12, ip + 16, 4);
	copy(ip + 16, from, 4);
}

static void answer_ip(uint8_t *ethernet, size_t size)
{
	uint8_t *ip = ethernet + ETHERNET, *payload = ip + IP;
	if (size < ETHERNET + IP + UDP || ip[0] != 0x45 || !same_bytes(ip + 16, address, 4))
		return;
	if (ip[9] == 1 && payload[0] == 8) {
		/* An echo request becomes a reply: its type goes from 8 to 0, and the checksum up by as much. */
		payload[0] = 0;
		put_big_endian(payload + 2, fold(big_endian(payload + 2) + 0x800));
	} else if (ip[9] == 17) {
		uint8_t port[2];
		copy(port, payload, 2);
		copy(payload, payload + 2, 2);
		copy(payload + 2, port, 2);
		ended = same_bytes(payload + UDP, "end", 3);
	} else {
		return;
	}
	swap_addresses(ip);
	echoed++;
	reply(ethernet, size);
}

/* Copies a frame of one or more buffers behind the place of the header, and gives the buffers back; returns its size. */
static size_t take(uint32_t head, uint32_t length)
{
	size_t size = 0;
	uint16_t parts = buffers[head][10];
	if (parts == 0 || parts > SIZE)
		check(false, "buffers-of-a-frame", parts);
	for (;;) {
		copy(frame + size, buffers[head], length);
		size += length;
		offer(head);
		if (!--parts)
			break;
		if (!virtio_used(&receive, &head, &length))
			check(false, "all-buffers-at-once", parts);
	}
	virtio_notify(&net, &receive);
	return size - HEADER;
}

/* One packet for the host's kernel to make twenty of, with the last frame's addresses. */
static void send_large(void)
{
	uint8_t *ethernet = frame + HEADER, *ip = ethernet + ETHERNET, *tcp = ip + IP;
	size_t size = TCP + SEGMENT * SEGMENTS;
	static const uint8_t start[HEADER] = { NEEDS_CSUM, GSO_TCPV4, ETHERNET + IP + TCP, 0, SEGMENT & 0xff, SEGMENT >> 8,
					       ETHERNET + IP, 0, 16, 0, 0, 0 };
	copy(frame, start, HEADER);
	for (unsigned at = 0; at < TCP; at++)
		tcp[at] = 0;
	put_big_endian(tcp, 7777);
	put_big_endian(tcp + 2, 8888);
	tcp[12] = 5 << 4;
	tcp[13] = 0x10;
	for (unsigned at = 0; at < SEGMENT * SEGMENTS; at++)
		tcp[TCP + at] = at * 7 + (at >> 8);
	put_big_endian(ip + 2, IP + size);
	ip[6] = 0x40;
	ip[7] = 0;
	ip[9] = 6;
	put_big_endian(ip + 10, 0);
	put_big_endian(ip + 10, ~fold(sum(0, ip, IP)));
	/* The sum of the pseudo header; the rest is the host's to add. */
	put_big_endian(tcp + 16, fold(sum(6 + size, ip + 12, 8)));
	send(ETHERNET + IP + size);
}

static void start(void)
{
	uint64_t features = VIRTIO_F_VERSION_1 | F_CSUM | F_MTU | F_MAC | F_HOST_TSO4 | F_MRG_RXBUF | F_STATUS;
	uint32_t status = virtio_negotiate(&net, features);
	check(status == (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK), "negotiation", status);
	for (unsigned at = 0; at < sizeof mac; at++)
		mac[at] = read8(net.base + VIRTIO_CONFIG + at);
	print("mac");
	for (unsigned at = 0; at < sizeof mac; at++)
		print(" %lx", (uint64_t)mac[at]);
	print("\nlink %lu\nmtu %lu\n", (uint64_t)read16(net.base + VIRTIO_CONFIG + 6), (uint64_t)read16(net.base + VIRTIO_CONFIG + 10));
	check(virtio_set_up_queue(&net, &receive, RX, SIZE), "receive-queue", 0);
	check(virtio_set_up_queue(&net, &transmit, TX, SIZE), "transmit-queue", 0);
	virtio_start(&net);
	for (uint16_t index = 0; index < SIZE; index++)
		offer(index);
	virtio_notify(&net, &receive);
}

void main(void)
{
	uint32_t head, length;
	if (!virtio_find(NET, 0, &net)) {
		check(false, "found", 0);
		finish();
	}
	enable_lapic();
	set_handler(VECTOR, on_interrupt);
	route_pin(net.irq, VECTOR);
	start();
	print("ready\n");
	while (!ended) {
		wait_used(&receive, &head, &length);
		size_t size = take(head, length);
		uint8_t *ethernet = frame + HEADER;
		uint16_t type = size < ETHERNET ? 0 : big_endian(ethernet + 12);
		if (type == 0x806)
			answer_arp(ethernet, size);
		else if (type == 0x800)
			answer_ip(ethernet, size);
	}
	if (number_option("tso", 0))
		send_large();
	print("echoed %lu\n", echoed);
	finish();
}
