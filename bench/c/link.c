/* Links: sockets, buffers, and the few helpers every mode needs. */
#define _GNU_SOURCE
#include "lg.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU the broker has used, all threads, in microseconds: the first word of each task's schedstat is nanoseconds. */
uint64_t cpu_us(int pid) {
    char path[300];
    uint64_t all = 0;
    if (pid <= 0) return 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks) die("broker %d is gone", pid);
    for (struct dirent *e; (e = readdir(tasks));) {
        unsigned long ns = 0;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", pid, e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (f && fscanf(f, "%lu", &ns) == 1) all += ns / 1000;
        if (f) fclose(f);
    }
    closedir(tasks);
    return all;
}

void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

void pin(int core) {
    if (core < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set)) die("cannot pin to core %d: %s", core, strerror(errno));
}

void put16(uint8_t *at, uint16_t v) { memcpy(at, &v, 2); }
void put32(uint8_t *at, uint32_t v) { memcpy(at, &v, 4); }
void put64(uint8_t *at, uint64_t v) { memcpy(at, &v, 8); }
uint16_t get16(const uint8_t *at) { uint16_t v; memcpy(&v, at, 2); return v; }
uint32_t get32(const uint8_t *at) { uint32_t v; memcpy(&v, at, 4); return v; }
uint64_t get64(const uint8_t *at) { uint64_t v; memcpy(&v, at, 8); return v; }

void *must_alloc(size_t n) {
    void *p = calloc(1, n);
    if (!p) die("no memory for %zu bytes", n);
    return p;
}

size_t link_in_bytes = READ_BYTES + FRAME_MAX;

/* The pid in a name keeps two runs on one router apart. */
void link_init(struct link *l, const struct options *o, const char *base, int index, uint32_t id) {
    memset(l, 0, sizeof *l);
    l->fd = -1;
    l->index = index;
    l->id = id;
    l->in = must_alloc(link_in_bytes);
    snprintf(l->name, sizeof l->name, "%s@%s", base, o->hive);
    if (getrandom(l->uuid, 16, 0) != 16) die("getrandom: %s", strerror(errno));
    l->uuid[6] = (uint8_t)((l->uuid[6] & 0x0f) | 0x40);
    l->uuid[8] = (uint8_t)((l->uuid[8] & 0x3f) | 0x80);
}

void link_close(struct link *l) {
    if (l->fd >= 0) close(l->fd);
    l->fd = -1;
    free(l->in);
    free(l->out);
    l->in = l->out = NULL;
    l->out_len = l->out_cap = l->have = 0;
}

void link_connect_unix(struct link *l, const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path) die("socket path too long: %s", path);
    strcpy(a.sun_path, path);
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (l->fd < 0) die("socket: %s", strerror(errno));
    while (connect(l->fd, (struct sockaddr *)&a, sizeof a)) {
        if (errno != EAGAIN && errno != EINTR) die("connect %s: %s", path, strerror(errno));
        struct timespec wait = {0, 1000000}; /* the listener's backlog is full: a swarm opens faster than it accepts */
        nanosleep(&wait, NULL);
    }
}

void link_connect_tcp(struct link *l, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int yes = 1;
    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (l->fd < 0 || connect(l->fd, (struct sockaddr *)&a, sizeof a)) die("connect to port %d: %s", port, strerror(errno));
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

void link_nonblocking(struct link *l) {
    fcntl(l->fd, F_SETFL, fcntl(l->fd, F_GETFL) | O_NONBLOCK);
    l->nonblocking = true;
}

size_t link_read(struct link *l) {
    size_t room = link_in_bytes - l->have;
    if (room > READ_BYTES) room = READ_BYTES;
    ssize_t n = recv(l->fd, l->in + l->have, room, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (n <= 0) die("%s: connection ended: %s", l->name, n ? strerror(errno) : "closed by the router");
    l->have += (size_t)n;
    return (size_t)n;
}

size_t link_try_write(struct link *l, const void *data, size_t n) {
    ssize_t w = send(l->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (w < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (w < 0) die("%s: write: %s", l->name, strerror(errno));
    return (size_t)w;
}

void link_write(struct link *l, const void *data, size_t n) {
    const uint8_t *at = data;
    while (n) {
        ssize_t w = send(l->fd, at, n, MSG_NOSIGNAL);
        if (w < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = l->fd, .events = POLLOUT};
            poll(&p, 1, 1000);
            continue;
        }
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) die("%s: write: %s", l->name, strerror(errno));
        at += w;
        n -= (size_t)w;
    }
}

void link_queue(struct link *l, const void *data, size_t n) {
    if (l->out_len + n > l->out_cap) {
        l->out_cap = (l->out_len + n) * 2 + 256;
        l->out = realloc(l->out, l->out_cap);
        if (!l->out) die("no memory for %zu bytes", l->out_cap);
    }
    memcpy(l->out + l->out_len, data, n);
    l->out_len += n;
}

void link_flush(struct link *l) {
    if (l->out_len) link_write(l, l->out, l->out_len);
    l->out_len = 0;
}

void link_flush_some(struct link *l) {
    size_t n = l->out_len ? link_try_write(l, l->out, l->out_len) : 0;
    if (n) memmove(l->out, l->out + n, l->out_len - n);
    l->out_len -= n;
}

void link_eat(struct link *l, size_t n) {
    if (n) memmove(l->in, l->in + n, l->have - n);
    l->have -= n;
}

/* Each message carries its number: at the front of the payload and, where the peer has the field, as its id. */
void stamp(const struct shape *s, uint8_t *frame, uint64_t seq) {
    put64(frame + s->payload_at, seq);
    if (s->id_at) put64(frame + s->id_at, seq + 1);
    if (s->trace_at) put64(frame + s->trace_at, seq + 1);
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void sort_ns(uint32_t *values, size_t n) { qsort(values, n, sizeof *values, by_value); }

double at_us(const uint32_t *sorted, size_t n, double quantile) {
    if (!n) return 0;
    size_t i = (size_t)((double)n * quantile);
    return sorted[i < n ? i : n - 1] / 1000.0;
}
