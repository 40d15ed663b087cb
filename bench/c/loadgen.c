/* Options, and which mode runs. Prints one JSON line; exits 1 with a sentence when the run is not valid. */
#include "lg.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct option names[] = {
    {"peer", 1, 0, 'p'},   {"mode", 1, 0, 'm'},   {"addr", 1, 0, 'a'},    {"port", 1, 0, 'P'},  {"hive", 1, 0, 'h'},
    {"shape", 1, 0, 's'},  {"size", 1, 0, 'S'},   {"fpw", 1, 0, 'f'},     {"dests", 1, 0, 'd'}, {"window", 1, 0, 'w'},
    {"core", 1, 0, 'c'},   {"conns", 1, 0, 'C'},  {"rate", 1, 0, 'r'},    {"uid", 1, 0, 'u'},   {"kind", 1, 0, 'k'},
    {"seconds", 1, 0, 't'}, {"warm", 1, 0, 'W'},  {"broker-pid", 1, 0, 'b'}, {"obey", 1, 0, 'o'}, {"count", 1, 0, 'n'},
    {"tap", 1, 0, 'T'}, {"vary", 1, 0, 'V'}, {"patience", 1, 0, 'x'},
    {0, 0, 0, 0},
};

static void set(struct options *o, int key, const char *v) {
    switch (key) {
    case 'p': o->peer = v; break;
    case 'm': o->mode = v; break;
    case 'a': o->addr = v; break;
    case 'h': o->hive = v; break;
    case 's': o->shape = v; break;
    case 'k': o->kind = v; break;
    case 'P': o->port = atoi(v); break;
    case 'S': o->size = atoi(v); break;
    case 'f': o->frames_per_write = atoi(v); break;
    case 'd': o->dests = atoi(v); break;
    case 'w': o->window = atoi(v); break;
    case 'c': o->core = atoi(v); break;
    case 'C': o->conns = atoi(v); break;
    case 'r': o->rate = atoi(v); break;
    case 'u': o->uid = atoi(v); break;
    case 'b': o->broker_pid = atoi(v); break;
    case 'o': o->obey = atoi(v); break;
    case 'x': o->patience = atof(v); break;
    case 'T': o->tap = atoi(v); break;
    case 'V': o->vary = atoi(v); break;
    case 'n': o->count = atoi(v); break;
    case 't': o->seconds = atof(v); break;
    case 'W': o->warm = atof(v); break;
    default: die("unknown option; see loadgen.c");
    }
}

static const struct peer *peer_named(const char *name) {
    const struct peer *all[] = {&skep_peer, &nats_peer, &relay_peer};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!strcmp(all[i]->name, name)) return all[i];
    die("no such peer: %s", name);
}

static void check(const struct options *o) {
    if (o->vary < 0 || o->vary > o->size - 16) die("vary %d is not in 0..size - 16", o->vary);
    if (o->size < 16 || o->size > FRAME_MAX - 4096) die("size %d is not in 16..%d", o->size, FRAME_MAX - 4096);
    if (o->dests < 1 || o->dests > DESTS_MAX) die("dests %d is not in 1..%d", o->dests, DESTS_MAX);
    if (o->frames_per_write < 1 || o->window < o->frames_per_write) die("the window must hold one write");
}

int main(int argc, char **argv) {
    struct options o = {.peer = "skep", .mode = "oneway", .addr = "", .hive = "bench", .shape = "plain", .kind = "own",
                        .port = 4222, .size = 256, .frames_per_write = 64, .dests = 1, .window = 1024, .core = -1,
                        .conns = 1, .rate = 10000, .uid = -1, .obey = 1, .count = 0, .seconds = 1, .warm = .2, .patience = 5};
    static const struct {
        const char *name;
        void (*run)(const struct options *, const struct peer *);
    } modes[] = {{"oneway", run_oneway}, {"rtt", run_rtt}, {"slow", run_slow}, {"flood", run_flood}, {"swarm", run_swarm}};
    for (int key; (key = getopt_long(argc, argv, "", names, NULL)) != -1;) set(&o, key, optarg);
    check(&o);
    pin(o.core);
    const struct peer *p = peer_named(o.peer);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(modes[i].name, o.mode)) {
            modes[i].run(&o, p);
            return 0;
        }
    die("no such mode: %s", o.mode);
}
