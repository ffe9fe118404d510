#include "server/job/door.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "comm/wire/join.h"

enum {
    MAX_GUESTS = 8 /* who have not said all of the token; others wait in the socket's queue */,
    PATIENCE_MS = 10000
};

struct guest {
    struct sk_door *door;
    uv_poll_t poll;
    int fd; /* -1 = free */
    bool closing;
    uint64_t since_ms;
    size_t n;
    struct sk_join_hello hello;
};

struct sk_door {
    struct sk_door_conf conf;
    uv_loop_t *loop;
    char name[300], token[SK_JOIN_TOKEN + 1];
    int fd;
    bool closed;
    uv_poll_t poll;
    uv_timer_t patience;
    struct guest guest[MAX_GUESTS];
    int n_handles;
};

static void on_knock(uv_poll_t *p, int status, int events);

static void finish(struct sk_door *d)
{
    if (--d->n_handles > 0)
        return;
    close(d->fd);
    sk_free(d);
}

static void on_handle_closed(uv_handle_t *h)
{
    finish(h->data);
}

/* --- guests --- */

static void on_guest_closed(uv_handle_t *h)
{
    struct guest *g = h->data;
    g->closing = false;
    finish(g->door);
}

/* Its descriptor is the caller's from now on. */
static int let_go(struct guest *g)
{
    int fd = g->fd;
    g->fd = -1;
    g->closing = true;
    uv_close((uv_handle_t *)&g->poll, on_guest_closed);
    return fd;
}

static void send_off(struct guest *g, const char *why)
{
    sk_log(SK_LOG_WARN, "%s: an engine is sent off: %s", g->door->name, why);
    close(let_go(g));
}

static void let_in(struct guest *g)
{
    struct sk_door *d = g->door;
    if (sk_join_answer(g->fd, d->conf.board_fd) != 0) {
        send_off(g, "it did not wait for the answer");
        return;
    }
    int fd = let_go(g);
    for (int i = 0; i < MAX_GUESTS; i++) {
        if (d->guest[i].fd >= 0)
            send_off(&d->guest[i], "another one came first");
    }
    uv_poll_stop(&d->poll);
    uv_timer_stop(&d->patience);
    d->conf.on_leader(d->conf.arg, fd);
}

static void on_guest(uv_poll_t *p, int status, int events)
{
    struct guest *g = p->data;
    ssize_t n = recv(g->fd, (char *)&g->hello + g->n, sizeof g->hello - g->n, 0);
    if (n <= 0) {
        send_off(g, "it hung up");
        return;
    }
    g->n += (size_t)n;
    int rc = sk_join_check(&g->hello, g->n, g->door->token);
    if (rc < 0)
        send_off(g, "it has not this job's token");
    else if (rc > 0)
        let_in(g);
}

static struct guest *free_place(struct sk_door *d)
{
    for (int i = 0; i < MAX_GUESTS; i++) {
        if (d->guest[i].fd < 0 && !d->guest[i].closing)
            return &d->guest[i];
    }
    return NULL;
}

/* --- the door --- */

static void receive(struct sk_door *d, struct guest *g, int fd)
{
    if (uv_poll_init(d->loop, &g->poll, fd) != 0) {
        close(fd);
        return;
    }
    g->door = d;
    g->poll.data = g;
    g->fd = fd;
    g->n = 0;
    g->since_ms = uv_now(d->loop);
    d->n_handles++;
    uv_poll_start(&g->poll, UV_READABLE, on_guest);
}

static void on_knock(uv_poll_t *p, int status, int events)
{
    struct sk_door *d = p->data;
    struct guest *g;
    int fd;
    while ((g = free_place(d)) && (fd = sk_join_accept(d->fd)) >= 0)
        receive(d, g, fd);
    if (!g || errno == EMFILE || errno == ENFILE)
        uv_poll_stop(p); /* until somebody's patience is over */
}

static void on_patience(uv_timer_t *t)
{
    struct sk_door *d = t->data;
    for (int i = 0; i < MAX_GUESTS; i++) {
        if (d->guest[i].fd >= 0 && uv_now(d->loop) - d->guest[i].since_ms >= PATIENCE_MS)
            send_off(&d->guest[i], "it says nothing");
    }
    uv_poll_start(&d->poll, UV_READABLE, on_knock);
}

static void open_door(struct sk_door *d)
{
    uv_poll_start(&d->poll, UV_READABLE, on_knock);
    uv_timer_start(&d->patience, on_patience, PATIENCE_MS / 10, PATIENCE_MS / 10);
}

int sk_door_make(struct uv_loop_s *loop, const struct sk_door_conf *conf, struct sk_door **ret, struct sk_err *err)
{
    struct sk_door *d = sk_calloc(1, sizeof *d);
    if (!d)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    int rc = sk_join_listen(conf->addr, &d->fd, d->name, err);
    if (rc == 0 && uv_poll_init(loop, &d->poll, d->fd) != 0) {
        close(d->fd);
        rc = sk_err_set(err, SK_EIO, NULL, "cannot watch %s", d->name);
    }
    if (rc != 0) {
        sk_free(d);
        return rc;
    }
    d->conf = *conf;
    d->loop = loop;
    snprintf(d->token, sizeof d->token, "%s", conf->token);
    for (int i = 0; i < MAX_GUESTS; i++)
        d->guest[i].fd = -1;
    uv_timer_init(loop, &d->patience);
    d->poll.data = d->patience.data = d;
    d->n_handles = 2;
    open_door(d);
    *ret = d;
    return 0;
}

const char *sk_door_name(const struct sk_door *d)
{
    return d->name;
}

void sk_door_close(struct sk_door *d)
{
    if (!d || d->closed)
        return;
    d->closed = true;
    for (int i = 0; i < MAX_GUESTS; i++) {
        if (d->guest[i].fd >= 0)
            close(let_go(&d->guest[i]));
    }
    uv_close((uv_handle_t *)&d->poll, on_handle_closed);
    uv_close((uv_handle_t *)&d->patience, on_handle_closed);
}
