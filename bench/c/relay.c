/* The floor for routers: a relay in C over Unix sockets, epoll, one copy of each frame in user space.
 *
 * A frame is u32 bytes (whole frame), u32 destination number, payload. The first frame of a connection is a
 * greeting of 8 bytes whose number is the connection's own; it is sent back. Nothing is looked at but the two
 * words, nothing is counted or checked: this is what routing costs when a router does nothing else.
 *
 *     relay PATH [CORE]
 */
#define _GNU_SOURCE
#include "lg.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEAD = 8, NUMBERS = 65536, OUT_MAX = 32 << 20, TOUCHED_MAX = 4096 };

struct conn {
    int fd, waiting;
    uint32_t number;
    uint8_t *in, *out;
    size_t have, out_len, out_at, out_cap;
};

static struct conn *by_number[NUMBERS];
static struct conn *touched[TOUCHED_MAX];
static size_t touched_count;
static int poll_fd;

static void watch(struct conn *c, uint32_t events, int how) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    if (epoll_ctl(poll_fd, how, c->fd, &e)) die("epoll: %s", strerror(errno));
}

static void drop(struct conn *c) {
    if (c->number && by_number[c->number] == c) by_number[c->number] = NULL;
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void append(struct conn *c, const uint8_t *data, size_t n) {
    if (c->out_len + n > c->out_cap) {
        c->out_cap = (c->out_len + n) * 2;
        if (c->out_cap > OUT_MAX) die("a reader of the relay is too slow");
        c->out = realloc(c->out, c->out_cap);
        if (!c->out) die("no memory");
    }
    if (!c->out_len && touched_count < TOUCHED_MAX) touched[touched_count++] = c;
    memcpy(c->out + c->out_len, data, n);
    c->out_len += n;
}

static void flush(struct conn *c) {
    while (c->out_at < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) c->out_at = c->out_len;
            else if (!c->waiting) watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD), c->waiting = 1;
            if (errno == EAGAIN) return;
            continue;
        }
        c->out_at += (size_t)n;
    }
    c->out_at = c->out_len = 0;
    if (c->waiting) watch(c, EPOLLIN, EPOLL_CTL_MOD), c->waiting = 0;
}

static void greet(struct conn *c, const uint8_t *frame) {
    c->number = get32(frame + 4) % NUMBERS;
    by_number[c->number] = c;
    append(c, frame, HEAD);
}

static void walk(struct conn *c) {
    size_t at = 0;
    while (c->have - at >= HEAD) {
        size_t n = get32(c->in + at);
        if (n < HEAD || n > FRAME_MAX) die("frame of %zu bytes", n);
        if (c->have - at < n) break;
        struct conn *to = by_number[get32(c->in + at + 4) % NUMBERS];
        if (!c->number) greet(c, c->in + at);
        else if (to) append(to, c->in + at, n);
        at += n;
    }
    memmove(c->in, c->in + at, c->have - at);
    c->have -= at;
}

static void readable(struct conn *c) {
    ssize_t n = recv(c->fd, c->in + c->have, READ_BYTES, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        drop(c);
        return;
    }
    c->have += (size_t)n;
    walk(c);
    for (size_t i = 0; i < touched_count; i++) flush(touched[i]);
    touched_count = 0;
}

static void accept_one(int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    struct conn *c = must_alloc(sizeof *c);
    c->fd = fd;
    c->in = must_alloc(READ_BYTES + FRAME_MAX);
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
}

int main(int argc, char **argv) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct epoll_event ready[256], e = {.events = EPOLLIN, .data.ptr = NULL};
    if (argc < 2 || strlen(argv[1]) >= sizeof a.sun_path) die("usage: relay PATH [CORE]");
    strcpy(a.sun_path, argv[1]);
    pin(argc > 2 ? atoi(argv[2]) : -1);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 1024))
        die("listen on %s: %s", argv[1], strerror(errno));
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &e)) die("epoll: %s", strerror(errno));
    for (;;) {
        int n = epoll_wait(poll_fd, ready, 256, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            if (!c) accept_one(listener);
            else if (ready[i].events & EPOLLOUT && (flush(c), !(ready[i].events & EPOLLIN))) continue;
            else readable(c);
        }
    }
}
