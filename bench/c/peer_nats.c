/* nats-server: the text protocol over loopback TCP, one subscription per node. */
#define _GNU_SOURCE
#include "lg.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void subject_of(const struct link *l, char *out) {
    strcpy(out, l->name);
    *strchrnul(out, '@') = 0;
}

static void nats_open(const struct options *o, struct link *l) {
    char subject[NAME_MAX_BYTES], hello[512];
    link_connect_tcp(l, o->port);
    subject_of(l, subject);
    int n = snprintf(hello, sizeof hello,
                     "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":true}\r\nSUB %s 1\r\nPING\r\n", subject);
    link_write(l, hello, (size_t)n);
    while (!memmem(l->in, l->have, "PONG\r\n", 6)) {
        link_read(l);
        if (memmem(l->in, l->have, "-ERR", 4)) die("nats-server: %.*s", (int)l->have, (char *)l->in);
    }
    l->have = 0;
}

static void nats_compose(const struct options *o, const struct link *from, const struct link *to, uint8_t *out,
                         struct shape *s) {
    char subject[NAME_MAX_BYTES];
    (void)from;
    memset(s, 0, sizeof *s);
    subject_of(to, subject);
    int n = sprintf((char *)out, "PUB %s %d\r\n", subject, o->size);
    s->payload_at = (size_t)n;
    memset(out + n, 'x', (size_t)o->size);
    memcpy(out + n + o->size, "\r\n", 2);
    s->bytes = (size_t)n + (size_t)o->size + 2;
}

/* "MSG subject sid [reply] bytes": the last word is the size. */
static size_t payload_bytes(const uint8_t *line, const uint8_t *end) {
    const uint8_t *at = end;
    while (at > line && at[-1] != ' ') at--;
    return (size_t)strtoul((const char *)at, NULL, 10);
}

static uint64_t nats_drain(struct link *l) {
    size_t at = 0;
    uint64_t messages = 0;
    while (at < l->have) {
        const uint8_t *line = l->in + at;
        const uint8_t *end = memmem(line, l->have - at, "\r\n", 2);
        if (!end) break;
        size_t whole = (size_t)(end - line) + 2;
        if (line[0] == 'M') {
            size_t n = payload_bytes(line, end);
            if (l->have - at < whole + n + 2) break;
            messages++;
            if (l->on_message) l->on_message(l, end + 2, n);
            whole += n + 2;
        } else if (!memcmp(line, "PING", 4)) {
            link_queue(l, "PONG\r\n", 6);
        } else if (line[0] == '-') {
            die("nats-server: %.*s", (int)(end - line), (const char *)line);
        }
        at += whole;
    }
    link_eat(l, at);
    return messages;
}

static void nats_settle(struct link *l) { (void)l; }

const struct peer nats_peer = {"nats", nats_open, nats_compose, nats_drain, nats_settle};
