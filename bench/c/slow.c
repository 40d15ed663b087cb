/* A slow consumer beside another flow of the *same* sender.
 *
 * One connection sends `rate` frames a second to one node (kind `stuck`: it never reads; `reads`: it does; `calm`:
 * nothing is sent to it) and, once a millisecond, a ping to an echo. The pings are the other flow. At the end the
 * stuck node dies, and every frame sent to it must be accounted for: delivered, refused, or reported. */
#define _GNU_SOURCE
#include "lg.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TICK_NS = 1000000, BACKLOG_MAX = 1 << 20 };

struct counts {
    _Atomic uint64_t delivered;
    _Atomic int ready;
};

struct echo {
    uint8_t *reply;
    struct shape shape;
};

struct run {
    const struct options *o;
    const struct peer *p;
    struct link client, echo, stuck;
    struct counts *counts;
    uint8_t *ping, *bulk;
    struct shape ping_shape, bulk_shape;
    uint32_t *lat;
    size_t trips;
    uint64_t bulk_sent, held, ping_seq, ping_at, pauses, first_at;
    bool flying;
};

static void answer(struct link *l, const uint8_t *payload, size_t n) {
    struct echo *e = l->context;
    if (n < 8) die("echo: short message");
    stamp(&e->shape, e->reply, get64(payload));
    link_queue(l, e->reply, e->shape.bytes);
}

static void consumers(struct run *r) {
    struct options ping = *r->o;
    struct echo e = {must_alloc(4096), {0}};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ping.size = 256;
    r->p->compose(&ping, &r->echo, &r->client, e.reply, &e.shape);
    r->echo.on_message = answer;
    r->echo.context = &e;
    r->p->open(r->o, &r->echo);
    r->p->open(r->o, &r->stuck);
    atomic_store(&r->counts->ready, 1);
    bool reads = !strcmp(r->o->kind, "reads");
    struct pollfd fds[2] = {{.fd = r->echo.fd, .events = POLLIN}, {.fd = r->stuck.fd, .events = POLLIN}};
    for (;;) {
        if (!poll(fds, reads ? 2 : 1, 5)) {
            r->p->settle(&r->echo), link_flush(&r->echo);
            if (reads) r->p->settle(&r->stuck), link_flush(&r->stuck);
        }
        if (fds[0].revents) link_read(&r->echo), r->p->drain(&r->echo), link_flush(&r->echo);
        if (!reads || !fds[1].revents) continue;
        link_read(&r->stuck);
        atomic_fetch_add(&r->counts->delivered, r->p->drain(&r->stuck));
        link_flush(&r->stuck);
    }
}

static void landed(struct link *l, const uint8_t *payload, size_t n) {
    struct run *r = l->context;
    if (n < 8 || get64(payload) != r->ping_seq) die("a ping came back out of turn");
    if (r->trips < LAT_MAX) r->lat[r->trips++] = (uint32_t)(now_ns() - r->ping_at);
    r->flying = false;
}

static void inject(struct run *r, int frames) {
    for (int i = 0; i < frames; i++) {
        if ((r->o->obey && r->client.paused) || r->client.out_len > BACKLOG_MAX) {
            r->held++;
            continue;
        }
        stamp(&r->bulk_shape, r->bulk, r->bulk_sent++);
        link_queue(&r->client, r->bulk, r->bulk_shape.bytes);
        if (!r->first_at) r->first_at = now_ns();
    }
}

static void ping(struct run *r) {
    if (r->flying) return;
    stamp(&r->ping_shape, r->ping, ++r->ping_seq);
    r->ping_at = now_ns();
    r->flying = true;
    link_queue(&r->client, r->ping, r->ping_shape.bytes);
}

static void hear(struct run *r, int timeout_ms) {
    struct link *c = &r->client;
    bool was = c->paused;
    struct pollfd f = {.fd = c->fd, .events = (short)(POLLIN | (c->out_len ? POLLOUT : 0))};
    struct timespec wait = {0, timeout_ms * 1000000L / 10};
    if (ppoll(&f, 1, &wait, NULL) <= 0) return;
    while (f.revents & POLLIN && link_read(c)) r->p->drain(c);
    r->pauses += c->paused && !was;
    link_flush_some(c);
}

static void flows(struct run *r) {
    bool quiet = !strcmp(r->o->kind, "calm");
    uint64_t start = now_ns(), end = start + (uint64_t)(r->o->seconds * 1e9), tick = start;
    while (now_ns() < end) {
        if (now_ns() >= tick) {
            tick += TICK_NS;
            if (!quiet) inject(r, r->o->rate / 1000);
            ping(r);
            link_flush_some(&r->client);
        }
        hear(r, 1);
    }
}

static void settle(struct run *r, double seconds) {
    for (uint64_t end = now_ns() + (uint64_t)(seconds * 1e9); now_ns() < end;) hear(r, 10);
}

static void report(struct run *r) {
    struct link *c = &r->client;
    uint64_t delivered = atomic_load(&r->counts->delivered);
    sort_ns(r->lat, r->trips);
    double told_ms = c->first_full_ns ? (double)(c->first_full_ns - r->first_at) / 1e6 : -1;
    printf("{\"trips\":%zu,\"p50_us\":%.2f,\"p99_us\":%.2f,\"bulk_sent\":%lu,\"held\":%lu,\"delivered\":%lu,"
           "\"queue_full\":%lu,\"refused_otherwise\":%lu,\"lost\":%lu,\"unknown\":%lu,\"pauses\":%lu,"
           "\"first_refusal_ms\":%.1f,\"silent\":%ld}\n",
           r->trips, at_us(r->lat, r->trips, .5), at_us(r->lat, r->trips, .99), r->bulk_sent, r->held, delivered,
           c->queue_full, c->other, c->lost, c->unknown, r->pauses, told_ms,
           (long)(r->bulk_sent - delivered - c->told - c->lost - c->unknown));
}

static void prepare(struct run *r) {
    struct options small = *r->o;
    small.size = 256;
    r->ping = must_alloc(4096);
    r->bulk = must_alloc((size_t)r->o->size + 4096);
    r->lat = must_alloc(sizeof *r->lat * LAT_MAX);
    r->p->compose(&small, &r->client, &r->echo, r->ping, &r->ping_shape);
    r->p->compose(r->o, &r->client, &r->stuck, r->bulk, &r->bulk_shape);
    r->client.on_message = landed;
    r->client.context = r;
}

void run_slow(const struct options *o, const struct peer *p) {
    struct run *r = must_alloc(sizeof *r);
    char base[64];
    r->o = o;
    r->p = p;
    struct link *links[] = {&r->client, &r->echo, &r->stuck};
    const char *names[] = {"AI.both%d", "AI.quick%d", "AI.stuck%d"};
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(base, sizeof base, names[i], (int)getpid());
        link_init(links[i], o, base, 0, 50 + i);
    }
    r->counts = mmap(NULL, sizeof *r->counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (r->counts == MAP_FAILED) die("mmap: %s", strerror(errno));
    p->open(o, &r->client);
    link_nonblocking(&r->client);
    pid_t pid = fork();
    if (!pid) consumers(r);
    while (!atomic_load(&r->counts->ready)) {
        if (waitpid(pid, NULL, WNOHANG) == pid) die("the consumers could not start");
        usleep(500);
    }
    prepare(r);
    flows(r);
    settle(r, .3);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    settle(r, .5);
    report(r);
}
