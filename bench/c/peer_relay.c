/* The bare relay of relay.c: u32 bytes of the whole frame, u32 number of the destination, payload. */
#include "lg.h"
#include <string.h>

enum { HEAD = 8 };

static void relay_open(const struct options *o, struct link *l) {
    uint8_t hello[HEAD];
    link_connect_unix(l, o->addr);
    put32(hello, HEAD);
    put32(hello + 4, l->id);
    link_write(l, hello, HEAD);
    while (l->have < HEAD) link_read(l); /* the relay sends the greeting back: registered */
    link_eat(l, HEAD);
}

static void relay_compose(const struct options *o, const struct link *from, const struct link *to, uint8_t *out,
                          struct shape *s) {
    (void)from;
    memset(s, 0, sizeof *s);
    s->payload_at = HEAD;
    s->bytes = HEAD + (size_t)o->size;
    put32(out, (uint32_t)s->bytes);
    put32(out + 4, to->id);
    memset(out + HEAD, 'x', (size_t)o->size);
}

static uint64_t relay_drain(struct link *l) {
    size_t at = 0;
    uint64_t messages = 0;
    while (l->have - at >= HEAD) {
        size_t n = get32(l->in + at);
        if (n < HEAD || n > FRAME_MAX) die("%s: frame of %zu bytes", l->name, n);
        if (l->have - at < n) break;
        messages++;
        if (l->on_message) l->on_message(l, l->in + at + HEAD, n - HEAD);
        at += n;
    }
    link_eat(l, at);
    return messages;
}

static void relay_settle(struct link *l) { (void)l; }

const struct peer relay_peer = {"relay", relay_open, relay_compose, relay_drain, relay_settle};
