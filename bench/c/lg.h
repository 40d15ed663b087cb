/* The load generator's own nouns: options, links, peers, and the memory that sender and sinks share.
 *
 * One program drives every router alike: the same processes, the same pinning, the same bound on messages in
 * flight (a counter in shared memory that the sinks move, so no peer pays for acknowledgements of the load
 * generator itself), the same check that what was counted at the sinks is what was sent, in order. Only how a
 * name is registered and how a frame looks differ; that is `struct peer`.
 */
#ifndef LG_H
#define LG_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { READ_BYTES = 256 * 1024, FRAME_MAX = 160 * 1024, NAME_MAX_BYTES = 128, DESTS_MAX = 1024, LAT_MAX = 2000000 };

struct options {
    const char *peer, *mode, *addr, *hive, *shape, *kind;
    int port, size, frames_per_write, dests, window, core, conns, rate, uid, obey, count, tap, vary;
    int broker_pid;
    double seconds, warm, patience; /* patience: seconds without progress that make a run invalid */
};

struct link;
typedef void (*message_fn)(struct link *l, const uint8_t *payload, size_t n);

/* One connection. `in` holds what was read and not parsed, `out` what is to be written. */
struct link {
    int fd, index;
    uint32_t id;                 /* number of this node for the relay */
    char name[NAME_MAX_BYTES];   /* full name */
    uint8_t uuid[16];
    uint8_t *in, *out;
    size_t have, out_len, out_cap;
    uint64_t taken, taken_bytes, reported, reported_ns; /* frames taken; of these reported, and when */
    uint64_t got, last_seq;
    uint64_t told;               /* frames of ours that the router refused */
    uint64_t queue_full, lost, unknown, confirmed, other;
    uint64_t first_full_ns;
    char refusal[160];           /* the first one, in the router's words */
    bool paused, nonblocking;
    message_fn on_message;
    void *context;
};

/* Where in a composed frame the changing parts are. */
struct shape {
    size_t bytes, payload_at, id_at, name_at, thread_at, trace_at; /* 0: the peer has no such field */
};

struct peer {
    const char *name;
    void (*open)(const struct options *o, struct link *l);
    void (*compose)(const struct options *o, const struct link *from, const struct link *to, uint8_t *out,
                    struct shape *s);
    /* Parses what is in l->in, calls on_message, appends answers (TAKEN, PONG) to l->out. Returns messages. */
    uint64_t (*drain)(struct link *l);
    /* Appends what is still owed to the router (TAKEN of the last few frames): called when nothing arrives. */
    void (*settle)(struct link *l);
};

extern const struct peer skep_peer, nats_peer, relay_peer;

/* What sender and sinks share. `received` moves only in the sinks. */
struct shared {
    _Atomic uint64_t received, want, errors;
    _Atomic int waiting, ready, stop, failed;
    _Atomic uint64_t last_ns;
    int bell;                    /* eventfd: the window has room again */
};

extern size_t link_in_bytes; /* of each link's read buffer; a swarm of 10,000 makes it small */

uint64_t now_ns(void);
uint64_t cpu_us(int pid);
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void pin(int core);
void put16(uint8_t *at, uint16_t v);
void put32(uint8_t *at, uint32_t v);
void put64(uint8_t *at, uint64_t v);
uint16_t get16(const uint8_t *at);
uint32_t get32(const uint8_t *at);
uint64_t get64(const uint8_t *at);
void *must_alloc(size_t n);

void link_init(struct link *l, const struct options *o, const char *base, int index, uint32_t id);
void link_close(struct link *l);
void link_connect_unix(struct link *l, const char *path);
void link_connect_tcp(struct link *l, int port);
void link_nonblocking(struct link *l);
size_t link_read(struct link *l);              /* one recv; 0: nothing there; dies on a closed connection */
void link_write(struct link *l, const void *data, size_t n); /* all of it, blocking */
size_t link_try_write(struct link *l, const void *data, size_t n);
void link_queue(struct link *l, const void *data, size_t n);
void link_flush(struct link *l);               /* all of `out`, blocking */
void link_flush_some(struct link *l);          /* what the socket takes now */
void link_eat(struct link *l, size_t n);       /* drops n parsed bytes from the front of `in` */
void stamp(const struct shape *s, uint8_t *frame, uint64_t seq);

void sort_ns(uint32_t *values, size_t n);
double at_us(const uint32_t *sorted, size_t n, double quantile);

void run_oneway(const struct options *o, const struct peer *p);
void run_rtt(const struct options *o, const struct peer *p);
void run_slow(const struct options *o, const struct peer *p);
void run_flood(const struct options *o, const struct peer *p);
void run_swarm(const struct options *o, const struct peer *p);
#endif
