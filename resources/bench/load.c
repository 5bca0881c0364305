/* Load on a device, seen from a program: requests to a disk, and a stream or round trips over a socket. It prints what it did as
 *
 *     COUNT SECONDS
 *
 * where the count is of requests, bytes or round trips. Static, to run in any initramfs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* After the system's own definition of an address. */
#include <linux/vm_sockets.h>

enum { THREADS_MAX = 64, CHUNK = 128 << 10 };

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void report(uint64_t count, double begin)
{
    printf("%llu %.6f\n", (unsigned long long)count, now() - begin);
}

static struct {
    int fd;
    int writes;
    size_t block;
    uint64_t blocks;
    double end;
    uint64_t done[THREADS_MAX];
} disk;

/* One request after the other, at random blocks. */
static void *disk_thread(void *argument)
{
    size_t number = (size_t)argument;
    uint64_t random = 0x9E3779B97F4A7C15u * (number + 1);
    void *buffer;
    if (posix_memalign(&buffer, 4096, disk.block))
        errx(1, "no memory");
    memset(buffer, (int)number, disk.block);
    while (now() < disk.end) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        off_t offset = (off_t)(random % disk.blocks * disk.block);
        ssize_t moved = disk.writes ? pwrite(disk.fd, buffer, disk.block, offset)
                                    : pread(disk.fd, buffer, disk.block, offset);
        if (moved != (ssize_t)disk.block)
            err(1, "request");
        disk.done[number]++;
    }
    return NULL;
}

/* disk FILE read|write BLOCK THREADS SECONDS */
static void load_disk(char **arguments)
{
    size_t threads = strtoul(arguments[3], NULL, 10);
    disk.writes = !strcmp(arguments[1], "write");
    disk.block = strtoul(arguments[2], NULL, 10);
    disk.fd = open(arguments[0], O_DIRECT | (disk.writes ? O_RDWR : O_RDONLY));
    if (disk.fd < 0 || threads > THREADS_MAX || !disk.block)
        err(1, "%s", arguments[0]);
    disk.blocks = (uint64_t)lseek(disk.fd, 0, SEEK_END) / disk.block;
    double begin = now();
    disk.end = begin + strtod(arguments[4], NULL);
    pthread_t handles[THREADS_MAX];
    for (size_t number = 0; number < threads; number++)
        if (pthread_create(&handles[number], NULL, disk_thread, (void *)number))
            errx(1, "no thread");
    uint64_t total = 0;
    for (size_t number = 0; number < threads; number++) {
        pthread_join(handles[number], NULL);
        total += disk.done[number];
    }
    report(total, begin);
}

/* Where a server is: `tcp:HOST:PORT`, `vsock:CID:PORT` or `unix:PATH`. */
struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in tcp;
        struct sockaddr_un local;
        struct sockaddr_vm vsock;
    };
    socklen_t length;
};

static struct address address(const char *text)
{
    struct address address = {0};
    char host[16];
    unsigned port;
    if (!strncmp(text, "unix:", 5) && strlen(text + 5) < sizeof address.local.sun_path) {
        address.local.sun_family = AF_UNIX;
        strcpy(address.local.sun_path, text + 5);
        address.length = sizeof address.local;
    } else if (sscanf(text, "vsock:%15[0-9]:%u", host, &port) == 2) {
        address.vsock.svm_family = AF_VSOCK;
        address.vsock.svm_cid = (unsigned)strtoul(host, NULL, 10);
        address.vsock.svm_port = port;
        address.length = sizeof address.vsock;
    } else if (sscanf(text, "tcp:%15[0-9.]:%u", host, &port) == 2 && inet_pton(AF_INET, host, &address.tcp.sin_addr) == 1) {
        address.tcp.sin_family = AF_INET;
        address.tcp.sin_port = htons((uint16_t)port);
        address.length = sizeof address.tcp;
    } else {
        errx(1, "%s is no address", text);
    }
    return address;
}

/* Sends what is written without waiting for more: where that is not TCP, there is nothing to tell. */
static void at_once(int fd)
{
    int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

static void *serve_one(void *argument)
{
    int fd = (int)(intptr_t)argument;
    char *buffer = malloc(CHUNK);
    char mode = 0;
    at_once(fd);
    if (buffer && read(fd, &mode, 1) == 1) {
        ssize_t count;
        if (mode == 'o')
            while (send(fd, buffer, CHUNK, MSG_NOSIGNAL) > 0)
                ;
        while ((count = read(fd, buffer, CHUNK)) > 0)
            if (mode == 'e' && send(fd, buffer, (size_t)count, MSG_NOSIGNAL) != count)
                break;
    }
    free(buffer);
    close(fd);
    return NULL;
}

/* serve ADDRESS: takes a stream, gives one, or echoes, as the first byte of a connection says; until it is ended. */
static void serve(char **arguments)
{
    struct address local = address(arguments[0]);
    int listener = socket(local.any.sa_family, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, &local.any, local.length) || listen(listener, 8))
        err(1, "%s", arguments[0]);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t thread;
        if (fd >= 0 && !pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)fd))
            pthread_detach(thread);
    }
}

/* in|out|echo ADDRESS SECONDS */
static void load_stream(char **arguments)
{
    struct address remote = address(arguments[1]);
    int fd = socket(remote.any.sa_family, SOCK_STREAM, 0);
    if (connect(fd, &remote.any, remote.length))
        err(1, "%s", arguments[1]);
    at_once(fd);
    /* The server's direction is the opposite of ours. */
    char mode = arguments[0][0] == 'i' ? 'o' : arguments[0][0] == 'o' ? 'i' : 'e';
    static char buffer[CHUNK];
    if (write(fd, &mode, 1) != 1)
        err(1, "write");
    double begin = now(), end = begin + strtod(arguments[2], NULL);
    uint64_t total = 0;
    while (now() < end) {
        ssize_t count = 1;
        if (mode == 'o')
            count = read(fd, buffer, CHUNK);
        else if (mode == 'i')
            count = write(fd, buffer, CHUNK);
        else if (write(fd, buffer, 1) != 1 || read(fd, buffer, 1) != 1)
            count = -1;
        if (count <= 0)
            err(1, "connection");
        total += (uint64_t)count;
    }
    report(total, begin);
}

int main(int count, char **arguments)
{
    signal(SIGPIPE, SIG_IGN);
    if (count == 7 && !strcmp(arguments[1], "disk"))
        load_disk(arguments + 2);
    else if (count == 3 && !strcmp(arguments[1], "serve"))
        serve(arguments + 2);
    else if (count == 4)
        load_stream(arguments + 1);
    else
        errx(2, "usage: load disk FILE read|write BLOCK THREADS SECONDS | serve ADDRESS | in|out|echo ADDRESS SECONDS");
    return 0;
}
