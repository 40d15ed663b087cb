/* Round trip: a client and an echo, one message in flight. TAKEN travels in the same write as the next message. */
#define _GNU_SOURCE
#include "lg.h"
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct echo {
    uint8_t *reply;
    struct shape shape;
};

static void answer(struct link *l, const uint8_t *payload, size_t n) {
    struct echo *e = l->context;
    if (n < 8) die("echo: short message");
    stamp(&e->shape, e->reply, get64(payload));
    link_queue(l, e->reply, e->shape.bytes);
}

static void echo_process(const struct options *o, const struct peer *p, struct link *self, struct link *client, int ready) {
    struct echo e = {must_alloc((size_t)o->size + 1024), {0}};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    p->compose(o, self, client, e.reply, &e.shape);
    self->on_message = answer;
    self->context = &e;
    p->open(o, self);
    if (write(ready, "r", 1) != 1) die("pipe");
    for (;;) {
        link_read(self);
        p->drain(self);
        link_flush(self);
    }
}

static void note(struct link *l, const uint8_t *payload, size_t n) {
    l->last_seq = n >= 8 ? get64(payload) : UINT64_MAX;
    l->got++;
}

static uint32_t one_trip(const struct peer *p, struct link *l, uint8_t *frame, const struct shape *s, uint64_t seq) {
    stamp(s, frame, seq);
    uint64_t before = l->got, t = now_ns();
    link_queue(l, frame, s->bytes);
    link_flush(l);
    while (l->got == before) {
        link_read(l);
        p->drain(l);
        if (l->told) die("refused: %s", l->refusal);
    }
    if (l->last_seq != seq) die("answer %lu to message %lu", l->last_seq, seq);
    return (uint32_t)(now_ns() - t);
}

static void trips(const struct options *o, const struct peer *p, struct link *client, struct link *echo) {
    uint32_t *lat = must_alloc(sizeof *lat * LAT_MAX);
    uint8_t *frame = must_alloc((size_t)o->size + 1024);
    struct shape s;
    size_t n = 0;
    uint64_t seq = 0, t = now_ns(), warm = t + (uint64_t)(o->warm * 1e9), end = warm + (uint64_t)(o->seconds * 1e9);
    p->compose(o, client, echo, frame, &s);
    while (t < end && n < LAT_MAX) {
        uint32_t ns = one_trip(p, client, frame, &s, seq++);
        if (t >= warm) lat[n++] = ns;
        t = now_ns();
    }
    double seconds = (double)(t - warm) / 1e9;
    sort_ns(lat, n);
    printf("{\"sent\":%lu,\"received\":%lu,\"errors\":0,\"trips\":%zu,\"p50_us\":%.2f,\"p99_us\":%.2f,\"rate\":%.0f}\n", seq,
           client->got, n, at_us(lat, n, .5), at_us(lat, n, .99), (double)n / seconds);
}

void run_rtt(const struct options *o, const struct peer *p) {
    struct link client, echo;
    char base[64], ok;
    int ready[2];
    snprintf(base, sizeof base, "AI.client%d", (int)getpid());
    link_init(&client, o, base, 0, 3);
    snprintf(base, sizeof base, "AI.echo%d", (int)getpid());
    link_init(&echo, o, base, 0, 2);
    client.on_message = note;
    p->open(o, &client);
    if (pipe(ready)) die("pipe");
    pid_t pid = fork();
    if (!pid) {
        close(ready[0]);
        echo_process(o, p, &echo, &client, ready[1]);
    }
    close(ready[1]);
    if (read(ready[0], &ok, 1) != 1) die("the echo could not start");
    trips(o, p, &client, &echo);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}
