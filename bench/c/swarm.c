/* A swarm: thousands of nodes of one process, driven by lines on standard input so that whoever measures can look
 * at the router between them.
 *
 *     open N        registers nodes until there are N; answers with the joining times of the 100th and the Nth
 *     warm          each node sends one message to the next: every node has one warm flow
 *     ring K S      the first K nodes send to their next for S seconds; answers with the rate
 *     quit */
#define _GNU_SOURCE
#include "lg.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { SWARM_IN_BYTES = 64 * 1024, NEAR = 50 };

struct swarm {
    const struct options *o;
    const struct peer *p;
    struct link *links;
    uint64_t *sent;
    uint32_t *joined_ns;
    int open, poll_fd;
    uint64_t received, errors, in_flight;
};

static struct swarm swarm;

static void landed(struct link *l, const uint8_t *payload, size_t n) {
    if (n < 8 || get64(payload) != l->got) swarm.errors++;
    l->got++;
    swarm.received++;
    swarm.in_flight--;
}

static void join(int i) {
    struct link *l = &swarm.links[i];
    char base[64];
    snprintf(base, sizeof base, "AI.swarm%d.%d", (int)getpid(), i);
    link_init(l, swarm.o, base, i, 1000 + (uint32_t)i);
    l->on_message = landed;
    uint64_t t = now_ns();
    swarm.p->open(swarm.o, l);
    swarm.joined_ns[i] = (uint32_t)(now_ns() - t);
    link_nonblocking(l);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
    if (epoll_ctl(swarm.poll_fd, EPOLL_CTL_ADD, l->fd, &e)) die("epoll: %s", strerror(errno));
}

static void hear(int timeout_ms) {
    struct epoll_event ready[256];
    int n = epoll_wait(swarm.poll_fd, ready, 256, timeout_ms);
    for (int i = 0; i < n; i++) {
        struct link *l = ready[i].data.ptr;
        if (!link_read(l)) continue;
        swarm.p->drain(l);
        if (l->told) die("%s: a message was refused: %s", l->name, l->refusal);
        link_flush(l);
    }
}

/* The median of the joins around one place: a single join is at the mercy of the scheduler. */
static double around_us(int place) {
    uint32_t near[2 * NEAR];
    size_t n = 0;
    for (int i = place - NEAR; i < place + NEAR; i++)
        if (i >= 0 && i < swarm.open) near[n++] = swarm.joined_ns[i];
    sort_ns(near, n);
    return at_us(near, n, .5);
}

static void open_until(int count) {
    if (count > swarm.o->count) die("open %d: started for %d", count, swarm.o->count);
    for (; swarm.open < count; swarm.open++) join(swarm.open);
    printf("{\"open\":%d,\"join_100th_us\":%.1f,\"join_last_us\":%.1f}\n", swarm.open, around_us(100),
           around_us(swarm.open - NEAR));
}

static void send_to_next(int i, int members, int frames) {
    uint8_t batch[64 * 1024];
    struct shape s;
    size_t at = 0;
    struct link *from = &swarm.links[i], *to = &swarm.links[(i + 1) % members];
    for (int k = 0; k < frames && at + 4096 < sizeof batch; k++) {
        swarm.p->compose(swarm.o, from, to, batch + at, &s);
        stamp(&s, batch + at, swarm.sent[i]++);
        at += s.bytes;
        swarm.in_flight++;
    }
    link_write(from, batch, at);
}

/* A node that owes its router nothing is an idle one. */
static void settle_all(void) {
    for (int i = 0; i < swarm.open; i++) {
        swarm.p->settle(&swarm.links[i]);
        link_flush(&swarm.links[i]);
    }
    hear(50);
}

static void wait_until(uint64_t in_flight) {
    for (uint64_t end = now_ns() + 10000000000u; swarm.in_flight > in_flight;) {
        if (now_ns() > end) die("%lu messages never arrived", swarm.in_flight);
        hear(100);
    }
}

/* Numbers start anew: another ring gives each node another predecessor. */
static void forget(void) {
    for (int i = 0; i < swarm.open; i++) swarm.sent[i] = swarm.links[i].got = 0;
}

static void warm(void) {
    forget();
    for (int i = 0; i < swarm.open; i++) {
        send_to_next(i, swarm.open, 1);
        if (swarm.in_flight >= (uint64_t)swarm.o->window) wait_until(0);
    }
    wait_until(0);
    settle_all();
    printf("{\"warm\":%d,\"errors\":%lu}\n", swarm.open, swarm.errors);
}

static void ring(int members, double seconds) {
    uint64_t before, t0, cpu;
    forget();
    if (members < 2 || members > swarm.open) die("ring of %d with %d nodes", members, swarm.open);
    for (int i = 0; i < members; i++) { /* flows are warm in what is measured */
        send_to_next(i, members, 1);
        if (swarm.in_flight >= (uint64_t)swarm.o->window) wait_until(0);
    }
    wait_until(0);
    before = swarm.received;
    cpu = cpu_us(swarm.o->broker_pid);
    t0 = now_ns();
    for (int i = 0; now_ns() - t0 < (uint64_t)(seconds * 1e9); i = (i + 1) % members) {
        send_to_next(i, members, swarm.o->frames_per_write);
        hear(0);
        if (swarm.in_flight >= (uint64_t)swarm.o->window) wait_until((uint64_t)swarm.o->window / 2);
    }
    wait_until(0);
    uint64_t t1 = now_ns();
    settle_all();
    double wall = (double)(t1 - t0) / 1e9, n = (double)(swarm.received - before);
    double busy = (double)(cpu_us(swarm.o->broker_pid) - cpu) / 1e6;
    printf("{\"members\":%d,\"rate\":%.0f,\"per_cpu_s\":%.0f,\"errors\":%lu}\n", members, n / wall,
           busy > 0 ? n / busy : 0.0, swarm.errors);
}

static void raise_limit(int count) {
    struct rlimit r;
    rlim_t need = (rlim_t)count + 64;
    if (getrlimit(RLIMIT_NOFILE, &r)) die("getrlimit: %s", strerror(errno));
    if (r.rlim_cur >= need) return;
    r.rlim_cur = need;
    if (r.rlim_max < need) r.rlim_max = need;
    if (setrlimit(RLIMIT_NOFILE, &r)) die("%d nodes need RLIMIT_NOFILE %lu: %s", count, (unsigned long)need, strerror(errno));
}

void run_swarm(const struct options *o, const struct peer *p) {
    char line[128];
    int n;
    double seconds;
    raise_limit(o->count);
    link_in_bytes = SWARM_IN_BYTES;
    swarm = (struct swarm){.o = o, .p = p, .poll_fd = epoll_create1(0)};
    swarm.links = must_alloc(sizeof(struct link) * ((size_t)o->count + 1));
    swarm.sent = must_alloc(sizeof(uint64_t) * ((size_t)o->count + 1));
    swarm.joined_ns = must_alloc(sizeof(uint32_t) * ((size_t)o->count + 1));
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %d", &n) == 1) open_until(n);
        else if (sscanf(line, "ring %d %lf", &n, &seconds) == 2) ring(n, seconds);
        else if (!strncmp(line, "warm", 4)) warm();
        else if (!strncmp(line, "quit", 4)) return;
        else die("what is %s", line);
        fflush(stdout);
    }
}
