/*
 * Connects standard input and output to a stream socket: relay connect|listen unix:PATH|vsock:CID:PORT. The end of the input ends
 * the sending direction only; the program ends when both directions have.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
/* It takes what it needs from the headers above. */
#include <linux/vm_sockets.h>

union address {
	struct sockaddr any;
	struct sockaddr_un un;
	struct sockaddr_vm vm;
};

static void fail(const char *what)
{
	fprintf(stderr, "relay: %s: %s\n", what, strerror(errno));
	exit(1);
}

static socklen_t parse(const char *text, union address *address)
{
	memset(address, 0, sizeof *address);
	if (!strncmp(text, "unix:", 5) && strlen(text + 5) < sizeof address->un.sun_path) {
		address->un.sun_family = AF_UNIX;
		strcpy(address->un.sun_path, text + 5);
		return sizeof address->un;
	}
	if (sscanf(text, "vsock:%u:%u", &address->vm.svm_cid, &address->vm.svm_port) != 2) {
		errno = EINVAL;
		fail(text);
	}
	address->vm.svm_family = AF_VSOCK;
	return sizeof address->vm;
}

static int open_socket(const char *how, const char *text)
{
	union address address;
	socklen_t size = parse(text, &address);
	int fd = socket(address.any.sa_family, SOCK_STREAM, 0);
	if (fd < 0)
		fail("socket");
	if (!strcmp(how, "connect")) {
		if (connect(fd, &address.any, size))
			fail(text);
		return fd;
	}
	if (bind(fd, &address.any, size) || listen(fd, 1))
		fail(text);
	fprintf(stderr, "relay: listening at %s\n", text);
	int accepted = accept(fd, NULL, NULL);
	if (accepted < 0)
		fail("accept");
	return accepted;
}

static void write_all(int fd, const char *data, ssize_t length)
{
	while (length > 0) {
		ssize_t written = write(fd, data, length);
		if (written < 0)
			fail("write");
		data += written;
		length -= written;
	}
}

/* Both directions have a process, so that neither waits for the other. */
int main(int argc, char **argv)
{
	static char data[1 << 16];
	ssize_t length;
	if (argc != 3)
		return 2;
	int fd = open_socket(argv[1], argv[2]);
	pid_t sender = fork();
	if (sender < 0)
		fail("fork");
	int from = sender ? fd : 0, to = sender ? 1 : fd;
	while ((length = read(from, data, sizeof data)) > 0)
		write_all(to, data, length);
	if (length < 0)
		fail("read");
	if (!sender)
		shutdown(fd, SHUT_WR);
	else
		wait(NULL);
	return 0;
}
