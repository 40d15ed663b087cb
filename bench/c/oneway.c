/* One way: one sender process, one sink process, a bound on what is in flight.
 *
 * Frames are composed once and stamped with their number before each write; destinations are interleaved round
 * robin, so consecutive frames of a write go to different nodes. Each sink checks that the numbers it sees are
 * its own and ascend by the number of destinations: nothing lost, doubled, misrouted or reordered. */
#define _GNU_SOURCE
#include "lg.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#define PLAN_LEAST 1024 /* frames of a plan whose sizes differ: no pattern that a reader could lean on */

struct sinks {
    const struct options *o;
    struct shared *sh;
};

/* The batches of one whole turn through the destinations. */
struct plan {
    uint8_t *bytes;
    size_t *at;
    struct shape *shapes;
    size_t frames, next;
};

/* Message number `seq` of a run whose sizes differ: o->size on average, at most o->vary away from it. */
static size_t size_of(const struct options *o, uint64_t seq) {
    unsigned span = 2 * (unsigned)o->vary + 1;
    return (size_t)(o->size - o->vary) + (size_t)(seq % PLAN_LEAST * 2654435761u % span);
}

static void check(struct link *l, const uint8_t *payload, size_t n) {
    struct sinks *s = l->context;
    uint64_t seq = n >= 8 ? get64(payload) : UINT64_MAX;
    uint64_t expected = l->got * (uint64_t)s->o->dests + (uint64_t)l->index;
    if (n != size_of(s->o, seq) || seq != expected) atomic_fetch_add(&s->sh->errors, 1);
    l->got++;
}

static void count(struct shared *sh, uint64_t messages) {
    uint64_t now = atomic_fetch_add(&sh->received, messages) + messages;
    if (atomic_load(&sh->waiting) && now >= atomic_load(&sh->want) && atomic_exchange(&sh->waiting, 0)) {
        uint64_t one = 1;
        if (write(sh->bell, &one, 8) != 8) die("eventfd: %s", strerror(errno));
    }
}

static void name_sink(const struct options *o, struct link *l, int i, int run) {
    char base[NAME_MAX_BYTES / 2];
    snprintf(base, sizeof base, "AI.sink%d.%d", run, i);
    link_init(l, o, base, i, 100 + (uint32_t)i);
}

/* The router's record keeper, here one that throws away: with it connected, frames are copied to it. */
static void open_tap(const struct options *o, const struct peer *p, int poll_fd) {
    struct link *tap = must_alloc(sizeof *tap);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = tap};
    link_init(tap, o, "SY.tap", 0, 99);
    p->open(o, tap);
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, tap->fd, &e)) die("epoll: %s", strerror(errno));
}

static int open_sinks(const struct options *o, const struct peer *p, struct sinks *s, struct link *links) {
    int poll_fd = epoll_create1(0);
    for (int i = 0; i < o->dests; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = &links[i]};
        links[i].on_message = check;
        links[i].context = s;
        p->open(o, &links[i]);
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, links[i].fd, &e)) die("epoll: %s", strerror(errno));
    }
    if (o->tap) open_tap(o, p, poll_fd);
    return poll_fd;
}

static void sink_process(const struct options *o, const struct peer *p, struct shared *sh, struct link *links) {
    struct epoll_event ready[64];
    struct sinks s = {o, sh};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int poll_fd = open_sinks(o, p, &s, links);
    atomic_store(&sh->ready, 1);
    while (!atomic_load(&sh->stop)) {
        int n = epoll_wait(poll_fd, ready, 64, 5);
        for (int i = 0; !n && i < o->dests; i++) p->settle(&links[i]), link_flush(&links[i]);
        for (int i = 0; i < n; i++) {
            struct link *l = ready[i].data.ptr;
            if (!link_read(l)) continue;
            uint64_t messages = p->drain(l);
            atomic_store(&sh->last_ns, now_ns());
            link_flush(l);
            if (messages) count(sh, messages);
        }
    }
    exit(0);
}

static struct plan compose_plan(const struct options *o, const struct peer *p, const struct link *from,
                                const struct link *sinks) {
    size_t frames = (size_t)o->frames_per_write;
    while (frames % (size_t)o->dests || (o->vary && frames % PLAN_LEAST)) frames += (size_t)o->frames_per_write; /* a whole turn, in whole writes */
    struct plan plan = {must_alloc(frames * ((size_t)(o->size + o->vary) + 1024)), must_alloc((frames + 1) * sizeof(size_t)),
                        must_alloc(frames * sizeof(struct shape)), frames, 0};
    for (size_t i = 0; i < frames; i++) {
        struct options one = *o;
        one.size = (int)size_of(o, i);
        p->compose(&one, from, &sinks[i % (size_t)o->dests], plan.bytes + plan.at[i], &plan.shapes[i]);
        plan.at[i + 1] = plan.at[i] + plan.shapes[i].bytes;
    }
    return plan;
}

/* Only reads: an answer must not be written into the middle of a batch. */
static void hear(struct link *l, const struct peer *p) {
    while (link_read(l)) p->drain(l);
}

static void wait_for_room(const struct options *o, const struct peer *p, struct shared *sh, struct link *l,
                          uint64_t sent) {
    while (l->paused || sent - atomic_load(&sh->received) + (uint64_t)o->frames_per_write > (uint64_t)o->window) {
        uint64_t drop;
        struct pollfd fds[2] = {{.fd = sh->bell, .events = POLLIN}, {.fd = l->fd, .events = POLLIN}};
        atomic_store(&sh->want, sent - (uint64_t)o->window / 2);
        atomic_store(&sh->waiting, 1);
        if (!l->paused && atomic_load(&sh->received) >= sent - (uint64_t)o->window / 2) break;
        if (!poll(fds, 2, (int)(o->patience * 1000)))
            die("stalled: sent %lu, received %lu, paused %d, refused %lu %s", sent, atomic_load(&sh->received),
                l->paused, l->told, l->refusal);
        if (fds[0].revents && read(sh->bell, &drop, 8) != 8) die("eventfd: %s", strerror(errno));
        if (fds[1].revents) hear(l, p);
    }
}

static void send_batch(const struct peer *p, struct link *l, const uint8_t *data, size_t n) {
    while (n) {
        size_t w = link_try_write(l, data, n);
        data += w;
        n -= w;
        if (!n) return;
        struct pollfd f = {.fd = l->fd, .events = POLLIN | POLLOUT};
        if (poll(&f, 1, 5000) <= 0) die("%s: the router does not read", l->name);
        if (f.revents & POLLIN) hear(l, p);
    }
}

static uint64_t send_one_write(const struct options *o, const struct peer *p, struct link *l, struct plan *plan,
                               uint64_t sent) {
    size_t first = plan->next, last = first + (size_t)o->frames_per_write;
    for (size_t i = first; i < last; i++) stamp(&plan->shapes[i], plan->bytes + plan->at[i], sent++);
    send_batch(p, l, plan->bytes + plan->at[first], plan->at[last] - plan->at[first]);
    plan->next = last == plan->frames ? 0 : last;
    return sent;
}

static uint64_t send_until(const struct options *o, const struct peer *p, struct shared *sh, struct link *l,
                           struct plan *plan, uint64_t sent, uint64_t end_ns) {
    for (unsigned turn = 1; now_ns() < end_ns; turn++) {
        if (sent - atomic_load(&sh->received) + (uint64_t)o->frames_per_write > (uint64_t)o->window || l->paused)
            wait_for_room(o, p, sh, l, sent);
        sent = send_one_write(o, p, l, plan, sent);
        if (turn % 32) continue;
        hear(l, p); /* confirmations pile up otherwise */
        link_flush(l);
    }
    return sent;
}

static void wait_for_all(const struct options *o, const struct peer *p, struct shared *sh, struct link *l, uint64_t sent) {
    uint64_t end = now_ns() + (uint64_t)(o->patience * 1e9);
    while (atomic_load(&sh->received) < sent && now_ns() < end) {
        struct pollfd f = {.fd = l->fd, .events = POLLIN};
        if (poll(&f, 1, 1) > 0) hear(l, p);
    }
}

static struct shared *share(void) {
    struct shared *sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sh == MAP_FAILED) die("mmap: %s", strerror(errno));
    sh->bell = eventfd(0, EFD_NONBLOCK);
    return sh;
}

static pid_t fork_sinks(const struct options *o, const struct peer *p, struct shared *sh, struct link *links) {
    pid_t pid = fork();
    if (!pid) sink_process(o, p, sh, links);
    while (!atomic_load(&sh->ready)) {
        if (waitpid(pid, NULL, WNOHANG) == pid) die("the sinks could not start");
        usleep(500);
    }
    return pid;
}

static void measure(const struct options *o, const struct peer *p, struct shared *sh, struct link *l, struct plan *plan) {
    uint64_t start = now_ns();
    uint64_t sent = send_until(o, p, sh, l, plan, 0, start + (uint64_t)(o->warm * 1e9));
    uint64_t first = atomic_load(&sh->received), t0 = now_ns(), cpu0 = cpu_us(o->broker_pid);
    sent = send_until(o, p, sh, l, plan, sent, t0 + (uint64_t)(o->seconds * 1e9));
    wait_for_all(o, p, sh, l, sent);
    uint64_t got = atomic_load(&sh->received), t1 = atomic_load(&sh->last_ns), cpu1 = cpu_us(o->broker_pid);
    double wall = (double)(t1 - t0) / 1e9, cpu = (double)(cpu1 - cpu0) / 1e6;
    printf("{\"sent\":%lu,\"received\":%lu,\"errors\":%lu,\"refused\":%lu,\"rate\":%.0f,\"cpu_s\":%.3f,\"per_cpu_s\":%.0f}\n",
           sent, got, atomic_load(&sh->errors), l->told, (double)(got - first) / wall, cpu,
           cpu > 0 ? (double)(got - first) / cpu : 0.0);
}

void run_oneway(const struct options *o, const struct peer *p) {
    struct shared *sh = share();
    struct link *sinks = must_alloc(sizeof(struct link) * (size_t)o->dests), sender;
    char base[64];
    int run = (int)getpid();
    for (int i = 0; i < o->dests; i++) name_sink(o, &sinks[i], i, run);
    pid_t pid = fork_sinks(o, p, sh, sinks);
    snprintf(base, sizeof base, "IO.load%d", run);
    link_init(&sender, o, base, 0, 1);
    p->open(o, &sender);
    link_nonblocking(&sender);
    struct plan plan = compose_plan(o, p, &sender, sinks);
    measure(o, p, sh, &sender, &plan);
    atomic_store(&sh->stop, 1);
    waitpid(pid, NULL, 0);
}
