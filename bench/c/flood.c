/* A flood: `conns` connections of one uid send at full speed and obey nothing.
 *
 * Kinds: `own` (to a node of the flooder that reads), `unknown` (names nobody has, each once), `selectors` (an
 * existing name, a thread that never repeats: every frame misses the flow table). Runs beside a measured victim. */
#define _GNU_SOURCE
#include "lg.h"
#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tally {
    uint64_t sent, delivered;
};

enum { BATCH = 64, CONNS_MAX = 256 };

struct gun {
    struct link link;
    uint8_t *batch;
    struct shape shape;
    size_t bytes, at;
};

static void become(int uid) {
    if (uid < 0) return;
    if (setgroups(0, NULL) || setgid((gid_t)uid) || setuid((uid_t)uid)) die("become uid %d: %s", uid, strerror(errno));
}

static void load(struct gun *g, const struct options *o, uint64_t *sent) {
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < BATCH; i++) {
        uint8_t *f = g->batch + (size_t)i * g->shape.bytes;
        uint64_t n = (*sent)++;
        stamp(&g->shape, f, n);
        if (!strcmp(o->kind, "selectors")) put64(f + g->shape.thread_at, n * 0x9e3779b97f4a7c15u);
        if (!strcmp(o->kind, "unknown"))
            for (int k = 0; k < 12; k++) f[g->shape.name_at + 7 + (size_t)k] = (uint8_t)hex[n >> (4 * k) & 15];
    }
    g->at = 0;
}

static void arm(struct gun *g, const struct options *o, const struct peer *p, const struct link *target) {
    struct options shaped = *o;
    if (!strcmp(o->kind, "selectors")) shaped.shape = "thread";
    g->batch = must_alloc((size_t)BATCH * ((size_t)o->size + 1024));
    p->compose(&shaped, &g->link, target, g->batch, &g->shape);
    for (int i = 1; i < BATCH; i++) memcpy(g->batch + (size_t)i * g->shape.bytes, g->batch, g->shape.bytes);
    g->bytes = g->at = (size_t)BATCH * g->shape.bytes;
}

/* A frame cut in two goes out whole before anything else: the flood is hostile by its volume, not its form. */
static void fire(struct gun *g, const struct options *o, uint64_t *sent) {
    if (g->link.out_len) return;
    if (g->at == g->bytes) load(g, o, sent);
    g->at += link_try_write(&g->link, g->batch + g->at, g->bytes - g->at);
}

static uint64_t hear(struct link *l, const struct peer *p, bool between) {
    uint64_t messages = 0;
    while (link_read(l)) messages += p->drain(l);
    if (between) link_flush_some(l);
    return messages;
}

static void shoot(const struct options *o, const struct peer *p, struct gun *guns, struct link *own, struct tally *tally) {
    struct pollfd fds[CONNS_MAX + 1];
    for (uint64_t end = now_ns() + (uint64_t)(o->seconds * 1e9); now_ns() < end;) {
        for (int i = 0; i < o->conns; i++) {
            hear(&guns[i].link, p, guns[i].at == guns[i].bytes);
            fds[i] = (struct pollfd){.fd = guns[i].link.fd, .events = POLLIN | POLLOUT};
        }
        fds[o->conns] = (struct pollfd){.fd = own->fd, .events = POLLIN};
        poll(fds, (nfds_t)o->conns + 1, 100);
        if (fds[o->conns].revents) tally->delivered += hear(own, p, true);
        for (int i = 0; i < o->conns; i++)
            if (fds[i].revents & POLLOUT) fire(&guns[i], o, &tally->sent);
    }
}

void run_flood(const struct options *o, const struct peer *p) {
    struct gun *guns = must_alloc(sizeof *guns * (size_t)o->conns);
    struct link own, nobody;
    char base[64];
    struct tally tally = {0, 0};
    uint64_t told = 0;
    if (o->conns < 1 || o->conns > CONNS_MAX) die("conns %d is not in 1..%d", o->conns, CONNS_MAX);
    become(o->uid);
    snprintf(base, sizeof base, "AI.own%d", (int)getpid());
    link_init(&own, o, base, 0, 20000);
    p->open(o, &own);
    link_nonblocking(&own);
    link_init(&nobody, o, "AI.none000000000000", 0, 29999);
    for (int i = 0; i < o->conns; i++) {
        snprintf(base, sizeof base, "AI.gun%d.%d", (int)getpid(), i);
        link_init(&guns[i].link, o, base, i, 20001 + (uint32_t)i);
        p->open(o, &guns[i].link);
        link_nonblocking(&guns[i].link);
        arm(&guns[i], o, p, strcmp(o->kind, "unknown") ? &own : &nobody);
    }
    puts("ready");
    fflush(stdout);
    shoot(o, p, guns, &own, &tally);
    for (int i = 0; i < o->conns; i++) told += guns[i].link.told;
    printf("{\"sent\":%lu,\"delivered\":%lu,\"told\":%lu}\n", tally.sent, tally.delivered, told);
}
