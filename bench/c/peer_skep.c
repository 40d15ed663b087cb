/* Skep: JSON HELLO and ANNOUNCE, then native frames of header v1 (docs/wire.md).
 *
 * A consumer reports TAKEN as the SDK does: after 256 frames, 128 KiB or 20 ms (limits.py). Refusals and
 * reports are counted by kind. */
#define _GNU_SOURCE
#include "lg.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

enum {
    ID_AT = 8, TRACE_AT = 24, DEADLINE_AT = 56, KEY_AT = 72, SELECTOR_AT = 88, NAMES_AT = 112, LENGTHS_AT = 100,
    CLASS_AT = 89,
};
enum { TAKEN_EVERY = 256, TAKEN_BYTES = 128 << 10, TAKEN_AFTER_NS = 20000000 };
enum { CLASS_LINK = 0, CLASS_USER = 1, CLASS_SYSTEM = 2 };
enum { TAKEN = 1, CONFIRMED = 2, PAUSE = 3, RESUME = 4, PING = 5, PONG = 6, REPORT = 9 };

static void uuid_text(const uint8_t *u, char *out) {
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) *out++ = '-';
        *out++ = hex[u[i] >> 4];
        *out++ = hex[u[i] & 15];
    }
    *out = 0;
}

static void say_hello(struct link *l) {
    char id[40], body[1024];
    uuid_text(l->uuid, id);
    int n = snprintf(body, sizeof body,
                     "{\"routing\":{\"src\":\"%s\",\"dst\":null,\"ttl\":1,\"trace_id\":\"%s\"},"
                     "\"meta\":{\"type\":\"system\",\"msg\":\"HELLO\"},"
                     "\"payload\":{\"uuid\":\"%s\",\"name\":\"%s\",\"version\":\"1.0\",\"framing\":[\"native/1\"]}}",
                     id, id, id, l->name);
    uint32_t length = htonl((uint32_t)n);
    link_queue(l, &length, 4);
    link_queue(l, body, (size_t)n);
    link_flush(l);
}

static void hear_announce(struct link *l) {
    for (;;) {
        if (l->have >= 4) {
            uint32_t n;
            memcpy(&n, l->in, 4);
            n = ntohl(n);
            if (l->have >= 4 + (size_t)n) {
                char body[4097];
                size_t keep = n < 4096 ? n : 4096;
                memcpy(body, l->in + 4, keep);
                body[keep] = 0;
                if (!strstr(body, "\"ANNOUNCE\"")) die("%s: not registered: %s", l->name, body);
                if (!strstr(body, "native/1")) die("%s: the router does not speak native/1", l->name);
                link_eat(l, 4 + n);
                return;
            }
        }
        link_read(l);
    }
}

static void skep_open(const struct options *o, struct link *l) {
    link_connect_unix(l, o->addr);
    say_hello(l);
    hear_announce(l);
}

static size_t head(const struct link *from, uint8_t class, uint8_t dst_kind, uint8_t *out) {
    memset(out, 0, NAMES_AT);
    memcpy(out + KEY_AT, from->uuid, 16);
    out[SELECTOR_AT] = 1;
    out[CLASS_AT] = class;
    out[91] = 16; /* ttl */
    out[94] = 3;  /* bytes */
    out[96] = dst_kind;
    return NAMES_AT;
}

/* The SDK's default message adds what a plain one lacks: thread, source ILK, trace, deadline. */
static size_t sdk_shape(uint8_t *out, size_t at, struct shape *s) {
    memset(out + at, 0x11, 16); /* src_ilk */
    out[99] |= 1;
    at += 16;
    memset(out + at, 0x22, 32); /* thread digest */
    out[LENGTHS_AT + 3] = 32;
    s->thread_at = at;
    s->trace_at = TRACE_AT;
    memset(out + TRACE_AT, 0x33, 16);
    put32(out + DEADLINE_AT, 30000);
    return at + 32;
}

static void skep_compose(const struct options *o, const struct link *from, const struct link *to, uint8_t *out,
                         struct shape *s) {
    memset(s, 0, sizeof *s);
    size_t at = head(from, CLASS_USER, 2, out), n = strlen(to->name);
    memcpy(out + at, to->name, n);
    put16(out + 104, (uint16_t)n);
    s->name_at = at;
    at += n;
    if (!strcmp(o->shape, "sdk")) at = sdk_shape(out, at, s);
    if (!strcmp(o->shape, "thread")) {
        memset(out + at, 0x22, 32);
        out[LENGTHS_AT + 3] = 32;
        s->thread_at = at;
        at += 32;
    }
    put16(out + 4, (uint16_t)at);
    put16(out + 6, (uint16_t)at);
    memset(out + at, 'x', (size_t)o->size);
    s->payload_at = at;
    s->id_at = ID_AT;
    s->bytes = at + (size_t)o->size;
    put32(out, (uint32_t)s->bytes);
}

static void queue_link_frame(struct link *l, uint8_t verb, uint64_t value) {
    uint8_t f[NAMES_AT + 9];
    head(l, CLASS_LINK, 0, f);
    memset(f + KEY_AT, 0, 16); /* the link itself speaks: no source, no ttl */
    f[91] = 0;
    put16(f + 4, NAMES_AT);
    put16(f + 6, NAMES_AT);
    put32(f, sizeof f);
    f[NAMES_AT] = verb;
    put64(f + NAMES_AT + 1, value);
    link_queue(l, f, sizeof f);
}

static void hear_link_frame(struct link *l, const uint8_t *p, size_t n) {
    if (!n) die("%s: empty LINK frame", l->name);
    if (p[0] == PAUSE) l->paused = true;
    else if (p[0] == RESUME) l->paused = false;
    else if (p[0] == PING && n >= 9) queue_link_frame(l, PONG, get64(p + 1));
    else if (p[0] == CONFIRMED && n >= 17) l->confirmed = get64(p + 9);
    else if (p[0] == REPORT)
        for (size_t at = 1; at + 9 <= n; at += 9) *(p[at] == 1 ? &l->lost : &l->unknown) += 1;
}

static void hear_system(struct link *l, const uint8_t *p, size_t n) {
    if (!l->told++) snprintf(l->refusal, sizeof l->refusal, "%.*s", (int)(n < 150 ? n : 150), (const char *)p);
    if (memmem(p, n, "QUEUE_FULL", 10)) {
        l->queue_full++;
        if (!l->first_full_ns) l->first_full_ns = now_ns();
    } else {
        l->other++;
    }
}

static void report_taken(struct link *l) {
    queue_link_frame(l, TAKEN, l->taken);
    l->reported = l->taken;
    l->taken_bytes = 0;
    l->reported_ns = now_ns();
}

static void skep_settle(struct link *l) {
    if (l->taken != l->reported && now_ns() - l->reported_ns > TAKEN_AFTER_NS) report_taken(l);
}

static uint64_t skep_drain(struct link *l) {
    size_t at = 0;
    uint64_t messages = 0;
    while (l->have - at >= 4) {
        const uint8_t *f = l->in + at;
        size_t n = get32(f);
        if (n < NAMES_AT || n > FRAME_MAX) die("%s: frame of %zu bytes", l->name, n);
        if (l->have - at < n) break;
        size_t body = get16(f + 6);
        if (f[CLASS_AT] == CLASS_LINK) {
            hear_link_frame(l, f + body, n - body);
        } else {
            l->taken++;
            l->taken_bytes += n;
            if (f[CLASS_AT] == CLASS_USER) {
                messages++;
                if (l->on_message) l->on_message(l, f + body, n - body);
            } else if (f[CLASS_AT] == CLASS_SYSTEM) {
                hear_system(l, f + body, n - body);
            }
        }
        at += n;
    }
    link_eat(l, at);
    if (l->taken - l->reported >= TAKEN_EVERY || l->taken_bytes >= TAKEN_BYTES)
        report_taken(l);
    else
        skep_settle(l);
    return messages;
}

const struct peer skep_peer = {"skep", skep_open, skep_compose, skep_drain, skep_settle};
